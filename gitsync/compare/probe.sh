d=@DIR@
command -v git >/dev/null 2>&1 || { echo nogit; exit 0; }
if [ ! -e "$d" ] && [ ! -L "$d" ]; then echo absent; exit 0; fi
[ -d "$d" ] || { echo file; exit 0; }
cd -- "$d" 2>/dev/null && [ -r . ] && [ -x . ] || { echo closed; exit 0; }
if [ ! -e .git ]; then
  for f in .* *; do
    case $f in .|..) continue ;; esac
    if [ -e "$f" ] || [ -L "$f" ]; then echo other; exit 0; fi
  done
  echo absent; exit 0
fi
if out=$(git for-each-ref --format='%(objectname) %(refname)' refs/heads refs/tags refs/aivm 2>&1); then
  echo repo
  h=; [ ! -f .git/HEAD ] || IFS= read -r h <.git/HEAD || :
  case $h in 'ref: '*) ;; *) h=$(git symbolic-ref -q HEAD) && h="ref: $h" || h= ;; esac
  [ ${#h} -le 1000 ] || h=
  printf '%s\n' "$h"
  m=; [ ! -f .git/@MARK@ ] || IFS= read -r m <.git/@MARK@ || :
  [ ${#m} -le 1000 ] || m=
  printf '%s\n' "$m"
  if [ ${#out} -lt @FEW@ ]; then printf '%s\n' "$out"; else printf '%s\n' "$out" | head -c @MOST@; fi
else
  echo broken
  printf '%s\n' "$out" | head -c 1000
fi
