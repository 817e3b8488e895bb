# SPDX-License-Identifier: Apache-2.0
# usage.sh -- sourced by the scripts: --help prints the comment that a script begins with, what it does not know is refused.

usage() {  # usage MOST "$@": at most so many arguments (any: as many as you like), none of them an option
  local most=$1 script=${BASH_SOURCE[1]} argument
  shift
  for argument in "$@"; do
    case $argument in
      -h|--help) sed -n '2,/^[^#]/{/^# SPDX-/d; s/^# \{0,1\}//p}' "$script"; exit 0 ;;
      -*) echo "$script: unknown option $argument (--help says what there is)" >&2; exit 64 ;;
    esac
  done
  [ "$most" = any ] || [ $# -le "$most" ] ||
    { echo "$script: unknown argument ${*: -1} (--help says what there is)" >&2; exit 64; }
}
