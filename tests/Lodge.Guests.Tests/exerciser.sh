# Exercises the file system of a folder, $1, as pjdfstest does, with busybox; then random writes and truncations beside a file of another file system, as fsx does.
# Tells each check that fails, and at the end how many passed.
cd "$1" || exit 1
passed=0 failed=0

# expect WHAT COMMAND...: the command's output, or the reason of its failure, ends with WHAT.
expect() {
    wanted=$1
    shift
    got=$("$@" 2>&1)
    case $got in
        *"$wanted") passed=$((passed + 1)) ;;
        *) failed=$((failed + 1)); echo "FAILED: $*: expected '$wanted', got '$got'" ;;
    esac
}
# succeeds COMMAND..., fails REASON COMMAND...
succeeds() {
    if got=$("$@" 2>&1); then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $*: $got"; fi
}
fails() {
    wanted=$1
    shift
    if got=$("$@" 2>&1); then failed=$((failed + 1)); echo "FAILED: $*: succeeded"; return; fi
    case $got in
        *"$wanted"*) passed=$((passed + 1)) ;;
        *) failed=$((failed + 1)); echo "FAILED: $*: expected '$wanted', got '$got'" ;;
    esac
}
as() { user=$1; shift; su -s /bin/sh "$user" -c "$*"; }
long=$(printf '%0255d' 1)

# open, creat
umask 022
succeeds touch file
expect '644 regular empty file 1' stat -c '%a %F %h' file
(umask 0; : >open)
expect 666 stat -c %a open
(umask 077; : >closed)
expect 600 stat -c %a closed
fails 'File exists' sh -c 'set -C; : >file'
fails 'No such file' touch nowhere/file
fails 'Not a directory' touch file/x
fails 'Is a directory' sh -c ': >.'
succeeds touch "$long"
fails 'name too long' touch "${long}x"
succeeds rm "$long"
expect abc sh -c 'printf ab >data; printf c >>data; cat data'
expect aXc sh -c 'printf X | dd of=data bs=1 seek=1 conv=notrunc 2>/dev/null; cat data'
expect 0 sh -c ': >data; stat -c %s data'

# mkdir, rmdir
succeeds mkdir d
expect '755 directory 2' stat -c '%a %F %h' d
succeeds mkdir d/e
expect 3 stat -c %h d
fails 'File exists' mkdir d
fails 'not empty' rmdir d
fails 'Not a directory' rmdir file
succeeds rmdir d/e
fails 'No such file' rmdir d/e
fails 'No such file' mkdir x/y
succeeds mkdir -p a/b/c/d/e/f/g
succeeds rm -r a

# link, unlink
expect 2 sh -c 'ln file hard; stat -c %h file'
expect "$(stat -c %i file)" stat -c %i hard
fails 'File exists' ln file hard
fails '' ln d dd
succeeds rm hard
expect 1 stat -c %h file
fails 'No such file' rm hard
fails 'directory' rm d
expect 'kept' sh -c 'echo kept >gone; exec 4<gone; rm gone; cat <&4'

# symlink, readlink
succeeds ln -s file soft
expect file readlink soft
expect 'symbolic link' stat -c %F soft
succeeds ln -s nowhere dangling
fails 'No such file' cat dangling
succeeds ln -s loop loop
fails 'symbolic links' cat loop
expect root: sh -c 'ln -s /etc/passwd out; head -c 5 out' # the guest's own
succeeds ln -s "$(printf '%01000d' 1)" far
expect 1000 sh -c 'readlink far | tr -d "\n" | wc -c'

# rename
expect moved sh -c 'echo moved >from; mv from to; cat to'
fails 'No such file' mv from to
expect over sh -c 'echo over >from; mv from to; cat to'
succeeds mv to d/to
succeeds mv d d2
expect over cat d2/to
succeeds mkdir empty
fails '' mv -T d2 file
fails '' mv d2 d2/inside
succeeds mv -T empty d3
fails 'not empty' mv -T d3 d2
succeeds mv -T d2 d3
expect over cat d3/to

# chmod, chown, the right to do so
expect 4 sh -c 'chmod 400 file; stat -c %a file | cut -c1'
expect 1777 sh -c 'mkdir sticky; chmod 1777 sticky; stat -c %a sticky'
expect 2775 sh -c 'mkdir group; chmod 2775 group; stat -c %a group'
expect 755 sh -c 'touch tool; chmod 6755 tool; stat -c %a tool' # no rights for the host
if [ "$2" = root ]; then
    expect '12:34' sh -c 'chown 12:34 tool; stat -c %u:%g tool'
    expect '12:34' sh -c 'ln -s x owned; chown -h 12:34 owned; stat -c %u:%g owned'
    expect 34 sh -c 'chgrp 34 group; touch group/inherits; stat -c %g group/inherits'
    expect 65534 sh -c 'mkdir open2; chmod 777 open2; su -s /bin/sh nobody -c "touch open2/theirs"; stat -c %u open2/theirs'
    fails 'not permitted' as nobody chmod 777 tool
    succeeds as nobody chmod 600 open2/theirs
    chmod 1777 open2
    : >open2/mine
    fails '' as nobody rm -f open2/mine
    succeeds as nobody rm -f open2/theirs
else
    expect 0:0 sh -c 'chown 0:0 tool; stat -c %u:%g tool'
    fails 'not permitted' chown 12:34 tool
fi
: >private
chmod 600 private
fails 'ermission denied' as nobody cat private
mkdir locked
chmod 700 locked
fails 'ermission denied' as nobody ls locked
fails 'not permitted' mknod device c 1 3
succeeds mkfifo fifo
expect through sh -c 'echo through >fifo & cat fifo'

# truncate, times
expect 5000 sh -c 'truncate -s 5000 sparse; stat -c %s sparse'
expect "$(dd if=/dev/zero bs=5000 count=1 2>/dev/null | md5sum)" sh -c 'md5sum <sparse'
expect 10 sh -c 'truncate -s 10 sparse; stat -c %s sparse'
expect 1000000000 sh -c 'touch -d @1000000000 file; stat -c %Y file'
now=$(stat -c %Y data)
expect yes sh -c 'sleep 1; echo >>data; [ $(stat -c %Y data) -gt '"$now"' ] && echo yes'

# many names
mkdir many
i=0
while [ $i -lt 500 ]; do : >many/name-$i; i=$((i + 1)); done
expect 500 sh -c 'ls many | wc -l'
expect 500 sh -c 'find many -type f | wc -l'
succeeds rm -r many
fails 'No such file' ls many

# Random writes and truncations, here and in memory.
seed=12345
next() { seed=$(((seed * 1103515245 + 12345) & 0x7fffffff)); number=$((seed / 7 % $1)); }
: >random
: >/tmp/random
i=0
while [ $i -lt 120 ]; do
    next 60000; offset=$number
    next 9000; length=$((number + 1))
    next 10
    case $number in
        0) truncate -s $offset random; truncate -s $offset /tmp/random ;;
        1) dd if=/dev/zero bs=$length count=1 2>/dev/null >>random; dd if=/dev/zero bs=$length count=1 2>/dev/null >>/tmp/random ;;
        *) tr "\000-\377" "\\$((i % 8))\\$((i % 7))a-z" </dev/zero | dd bs=$length count=1 iflag=fullblock of=/tmp/piece 2>/dev/null
           dd if=/tmp/piece of=random bs=64k oflag=seek_bytes seek=$offset conv=notrunc 2>/dev/null
           dd if=/tmp/piece of=/tmp/random bs=64k oflag=seek_bytes seek=$offset conv=notrunc 2>/dev/null ;;
    esac
    i=$((i + 1))
    [ $((i % 10)) != 0 ] || succeeds cmp random /tmp/random
done
echo "$passed passed, $failed failed, random $(md5sum </tmp/random | cut -d' ' -f1)"
[ $failed = 0 ]
