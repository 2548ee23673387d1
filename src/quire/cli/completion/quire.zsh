#compdef quire
# Completion of quire's words in zsh: eval "$(quire completion zsh)", after compinit

# TABLES
_quire_offer_values() {
  # Of the key or option that is given.
  local key=${1#--}
  local -a values=(${(f)"$(_quire_values "${key//-/_}")"})
  case $values in
    :files) _files ;;
    :flag) return 1 ;;
    *) compadd -- $values ;;
  esac
  return 0
}

_quire() {
  local cur=${words[CURRENT]} prev=${words[CURRENT - 1]} name=${words[2]} one
  local -a found keys
  if ((CURRENT == 2)); then
    for one in ${(f)"$(_quire_commands)"}; do
      found+=("$one:$(_quire_summary $one)")
    done
    _describe command found
    compadd -- --help --version
    return
  fi
  if [[ $cur == *=* ]]; then
    compset -P '*='
    _quire_offer_values "${cur%%=*}"
    return
  fi
  if [[ $prev == --* && $cur != -* ]] && _quire_offer_values "$prev"; then
    return
  fi
  keys=(${(f)"$(_quire_keys "$name")"})
  if [[ $cur == -* ]]; then
    compadd -- ${(f)"$(_quire_options "$name")"} ${keys/#/--} --help
    return
  fi
  found=(${(f)"$(_quire_position "$name $((CURRENT - 2))")"})
  if (($#keys)) && [[ -z $found || -n $cur ]]; then
    compadd -S '' -- ${keys/%/=}
  fi
  compadd -- ${found:#:files}
  [[ $found[1] == :files ]] && _files
  return 0
}

if [[ ${funcstack[1]} == _quire ]]; then
  _quire "$@"
else
  compdef _quire quire
fi
