in_way() {
  case $1 in */*) d=${1%/*} ;; *) d=. ;; esac
  if [ "$d" != "${dir-}" ]; then
    dir=$d gone= bad=
    [ -e "$d" ] || gone=1
    while [ "$d" != . ]; do
      if [ -L "$d" ] || { [ -e "$d" ] && [ ! -d "$d" ]; }; then
        gone=1
        [ -n "$(git --literal-pathspecs ls-files -- "$d" | head -c 1)" ] || bad=$d
      fi
      case $d in */*) d=${d%/*} ;; *) d=. ;; esac
    done
  fi
  at=$bad
  [ -z "$bad" ] || return 0
  [ -z "$gone" ] || return 1
  at=$1
  if [ -d "$1" ] && [ ! -L "$1" ]; then
    [ -n "$(git --literal-pathspecs ls-files --others -- "$1" | head -c 1)" ]
    return
  fi
  [ -e "$1" ] || [ -L "$1" ]
}
