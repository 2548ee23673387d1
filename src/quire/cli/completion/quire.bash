# Completion of quire's words in bash: eval "$(quire completion bash)"

# TABLES
_quire_offer() {
  # Words that begin as the current one, each behind `lead`.
  local word
  for word in "$@"; do
    [[ $word == "$cur"* ]] && COMPREPLY+=("$lead$word")
  done
}

_quire_offer_files() {
  # Quoting and ~ are bash's own, where it can be asked.
  if [[ -z $lead && ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default 2>/dev/null; then
    return
  fi
  local path
  while IFS= read -r path; do
    # Said of files alone: it quotes a word's `=`.
    compopt -o filenames 2>/dev/null
    COMPREPLY+=("$lead$path")
  done < <(compgen -f -- "$cur")
}

_quire_offer_values() {
  # Of the key or option that `key` is.
  local values
  key=${key#--}
  values=$(_quire_values "${key//-/_}")
  case $values in
    :files) _quire_offer_files ;;
    :flag) return 1 ;;
    *) _quire_offer $values ;;
  esac
}

_quire() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
  local command=${COMP_WORDS[1]} key="" lead="" words
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    _quire_offer $(_quire_commands) --help --version
    return
  fi
  # A `=` is a word of its own, but where COMP_WORDBREAKS lacks it.
  if [[ $cur == "=" ]]; then
    key=$prev cur=""
  elif [[ $prev == "=" ]]; then
    key=${COMP_WORDS[COMP_CWORD - 2]}
  elif [[ $cur == *=* ]]; then
    key=${cur%%=*} lead=${cur%%=*}= cur=${cur#*=}
  elif [[ $prev == --* && $cur != -* ]]; then
    key=$prev
  fi
  if [[ -n $key ]] && _quire_offer_values; then
    return
  fi
  if [[ $cur == -* ]]; then
    words=$(_quire_keys "$command")
    _quire_offer $(_quire_options "$command") ${words:+$(printf -- '--%s\n' $words)} --help
    return
  fi
  local position
  words=$(_quire_keys "$command") position=$(_quire_position "$command $((COMP_CWORD - 1))")
  if [[ -z $position || -n $cur ]]; then
    _quire_offer ${words:+$(printf '%s=\n' $words)}
  fi
  _quire_offer ${position/:files/}
  [[ $position == :files* ]] && _quire_offer_files
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}

complete -F _quire quire
