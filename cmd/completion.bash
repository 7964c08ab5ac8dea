
# aivm's own forms of three functions of the package bash-completion, so that bash alone is enough.

# Sets cur, prev, words and cword from the command line up to the cursor. Bash splits words at "=" and
# ":" too; these are joined again. A tilde in cur is expanded, as the shell does for the program.
__aivm_words()
{
    COMPREPLY=()
    local line=${COMP_LINE:0:COMP_POINT} i
    words=() cword=-1
    for ((i = 0; i <= COMP_CWORD; i++)); do
        local word=${COMP_WORDS[i]} before=${line%%[![:space:]]*}
        line=${line#"$before"}
        if ((i == COMP_CWORD)); then
            word=$line # up to the cursor
        fi
        if [[ $i -gt 0 && -z $before && ($word == [=:]* || ${words[cword]} == *[=:]) ]]; then
            words[cword]+=$word
        else
            words+=("$word")
            ((++cword))
        fi
        line=${line#"$word"}
    done
    cur=${words[cword]} prev=
    if ((cword > 0)); then
        prev=${words[cword - 1]}
    fi
    if [[ $cur == "~" || $cur == "~/"* ]]; then
        cur=$HOME${cur:1}
    fi
}

# Offers directories (-d), else files, of which the extension may be given as a pattern.
__aivm_filedir()
{
    local name unquoted=${cur//\\/}
    unquoted=${unquoted#[\"\']}
    compopt -o filenames 2>/dev/null
    while IFS= read -r name; do
        if [[ ${1-} == -d || -z ${1-} || -d $name || $name == *.@(${1%|}) ]]; then
            COMPREPLY+=("$name")
        fi
    done < <(if [[ ${1-} == -d ]]; then compgen -d -- "$unquoted"; else compgen -f -- "$unquoted"; fi)
}
