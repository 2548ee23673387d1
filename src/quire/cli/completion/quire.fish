# Completion of quire's words in fish: quire completion fish | source

# TABLES
function _quire_offer_values
  # Of the key or option that is given, each behind `lead`; status 1 where the option takes none.
  set -l lead $argv[2]
  set -l cur $argv[3]
  set -l values (_quire_values (string replace -r '^--' '' -- $argv[1] | string replace -a -- - _))
  switch "$values"
    case :flag
      return 1
    case :files
      string replace -r '^' -- $lead (__fish_complete_path $cur)
    case '*'
      test (count $values) -gt 0; and printf '%s\n' $lead$values
  end
  return 0
end

function _quire_complete
  set -l tokens (commandline -opc)
  set -l cur (commandline -ct)
  set -l name $tokens[2]
  set -l prev $tokens[-1]
  if test (count $tokens) -eq 1
    for one in (_quire_commands)
      printf '%s\t%s\n' $one (_quire_summary $one)
    end
    printf '%s\n' --help --version
    return
  end
  if string match -q '*=*' -- $cur
    set -l parts (string split -m 1 = -- $cur)
    _quire_offer_values $parts[1] $parts[1]= $parts[2]
    return
  end
  if string match -q -- '--*' $prev; and not string match -q -- '-*' $cur
    _quire_offer_values $prev '' $cur; and return
  end
  set -l keys (_quire_keys $name)
  if string match -q -- '-*' $cur
    _quire_options $name
    test (count $keys) -gt 0; and printf '%s\n' --$keys
    echo --help
    return
  end
  set -l position (_quire_position "$name "(math (count $tokens) - 1))
  if test -z "$position" -o -n "$cur"
    test (count $keys) -gt 0; and printf '%s\n' $keys=
  end
  string match -v :files -- $position
  contains :files $position; and __fish_complete_path $cur
end

complete -c quire -f -a '(_quire_complete)'
