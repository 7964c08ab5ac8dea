package settingsync

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
)

// Statuses of Command.
const (
	StatusDone    = 0
	StatusChanged = 7 // what is to be replaced is not what was seen
)

// Command takes an archive on its stdin, in the guest. It is one perl, which
// every Debian and Ubuntu has (perl-base is essential), because a shell would
// start a dozen programs for it, each of them dear where the CPU is emulated.
func Command() []string {
	// statx(2), by the numbers of each machine's unistd.h; a VM is of this one's
	// kind. 0: not known here, or tried in vain: find says it, for 70 ms more.
	number := map[string]string{"amd64": "332", "arm64": "291", "riscv64": "291", "ppc64le": "383", "s390x": "379"}[runtime.GOARCH]
	return []string{"perl", "-e", receiver, cmp.Or(number, "0")}
}

// receiver puts what comes into a directory of its own below the guest's home,
// and when all is there does the steps in their order. One at a time: what an
// earlier run left when it was killed is removed under the lock. It loads no
// module: Fcntl alone would double its time. 6 is LOCK_EX and LOCK_NB, 18 EXDEV;
// statx's -100 is AT_FDCWD, 256 AT_SYMLINK_NOFOLLOW, 2047 STATX_BASIC_STATS.
const receiver = `
sub give { print STDERR "$_[0]\n"; exit 1 }
umask 077;
chdir or give("no home");
my ($s, $n, $d, %failed, @steps) = ("` + stateDir + `", 0);
sub names { opendir my $o, $_[0] or return; return readdir $o }
$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);
END { if (defined $d) { unlink map { "$d/$_" } 0 .. $n; rmdir $d } }
sub tree {
	my ($p, $mode) = @_;
	return 1 if -d $p;
	tree($1, 0700) or return if $p =~ m{^(.*[^/])/+[^/]+$}s;
	mkdir $p and chmod $mode, $p;
	return -d $p;
}
sub failed { my $dir = $_[0] =~ s{^\./}{}r; print "failed $dir\n" unless $failed{$dir}++ }
# It is started before there is anything to send: until then it holds nothing.
defined(my $head = readline STDIN) or give("what was sent is cut short");
tree($s, 0700) or give("$s cannot be made");
open my $lock, ">", "$s/lock" or give("$s/lock: $!");
for (my $i = 0; !flock $lock, 6; $i++) {
	give("another run is at work") if $i == 600;
	select undef, undef, undef, 0.1;
}
my @old = map { "$s/$_" } grep { /^in\./ } names($s);
system "rm", "-rf", "--", @old if @old;
mkdir "$s/in.$$" or give("$s/in.$$: $!");
$d = "$s/in.$$";

sub take {
	my ($n, $b) = (shift, "");
	while ((my $left = $n - length $b) > 0) {
		read(STDIN, $b, $left, length $b) or give("what was sent is cut short");
	}
	return $b;
}
my $whole;
for (; defined $head; $head = readline STDIN) {
	my ($op, @sizes) = split " ", $head;
	if ($op eq "end") { $whole = 1; last }
	my @f = map { take($_) } @sizes;
	if ($op eq "file" || $op eq "sync") {
		my $data = pop @f;
		my $at = "$d/" . $n++;
		open my $o, ">", $at or give("$at: $!");
		print $o $data and close $o or give("$at: $!");
		push @f, $at;
	}
	push @steps, [$op, @f];
}
give("what was sent is cut short") unless $whole;

# out is what a program prints about paths, some of them at a time.
sub out {
	my ($program, $after, @paths) = @_;
	my $text = "";
	while (my @some = splice @paths, 0, 500) {
		open my $p, "-|", @$program, @some, @$after or give("$program->[0]: $!");
		local $/;
		$text .= <$p> // "";
		close $p;
	}
	return $text;
}
my %sum = map { $_->[0] eq "same" ? ($_->[2], $_->[1]) : () } @steps;
if (my @paths = sort keys %sum) {
	for (@paths) { lstat; exit ` + changed + ` unless -f _ }
	for (split /\0/, out(["sha256sum", "-z", "--"], [], @paths)) {
		my ($is, $p) = /^(\w{64})  (.*)$/s or exit ` + changed + `;
		delete $sum{$p} if $sum{$p} eq $is;
	}
	exit ` + changed + ` if %sum;
}
# state is what statFormat tells of a file, times to the nanosecond, which
# perl's own stat does not have.
sub state {
	my ($path, $b) = ($_[0], "\0" x 256);
	my @s = lstat $path;
	return unless $ARGV[0] > 0 && syscall($ARGV[0], -100, $path, 256, 2047, $b) == 0;
	my ($inode, $size, $c, $cn, $m, $mn) = unpack "x32 Q Q x48 q L x4 q L", $b;
	return unless "@s[1,7,9,10]" eq "$inode $size $m $c";
	return sprintf "S%d:%d:%d.%09d0:%d.%09d0 %s\0", $inode, $size, $m, $mn, $c, $cn, $path;
}
my ($states, @seen) = ("");
for (@steps) {
	my ($op, @f) = @$_;
	if ($op eq "none") {
		exit ` + changed + ` if lstat $f[0];
	} elsif ($op eq "link") {
		exit ` + changed + ` unless (readlink($f[0]) // "") eq $f[1];
	} elsif ($op eq "dir") {
		tree($f[0], oct $f[1]) or failed($f[0]);
	} elsif ($op eq "keep") {
		link $f[0], $f[1] or system("cp", "-P", "-p", "--", $f[0], $f[1]) == 0 or give("$f[1]: $!");
	} elsif ($op eq "file" || $op eq "sym") {
		my ($dir, $name, $mode, $time, $at) = @f;
		my $to = "$dir/$name";
		if ($op eq "sym") {
			$at = "$d/" . $n++;
			symlink $f[2], $at or give("$at: $!");
		} else {
			utime $time, $time, $at;
			chmod oct $mode, $at;
		}
		next if rename $at, $to;
		# On another file system: mv copies.
		failed($dir) unless $! == 18 && !-d $to && system("mv", "-f", "-T", "--", $at, $to) == 0;
	} elsif ($op eq "trim") {
		my ($dir, $name) = @f;
		my @kept = sort grep { /^\Q$name\E\.aivm-\d.*T\d.*Z$/s } names($dir);
		unlink map { "$dir/$_" } splice @kept, 0, @kept > 3 ? @kept - 3 : 0;
	} elsif ($op eq "seen") {
		lstat $f[0];
		next unless -f _;
		my $state = state($f[0]);
		defined $state ? $states .= $state : push @seen, $f[0];
	} elsif ($op eq "sync") {
		my ($id, $at) = @f;
		open my $o, ">>", $at or give("$at: $!");
		print $o $states;
		print $o out(["find"], ["-maxdepth", "0", "-type", "f", "-printf", 'S` + statFormat + ` %p\0'], @seen) if @seen;
		my @old = grep { /^sync\.\w{32}$/ } names($s);
		link $at, "` + stateFile + `.$id"; # if it cannot be, the state is read every time
		close $o and rename $at, "` + stateFile + `" or give("` + stateFile + `: $!");
		unlink map { "$s/$_" } @old;
	}
}
`

const changed = "7" // StatusChanged

// Failed is what the guest could not do: lines "failed WHAT" on its stdout.
func Failed(stdout string) []string {
	var out []string
	for line := range strings.Lines(stdout) {
		if what, ok := strings.CutPrefix(strings.TrimSpace(line), "failed "); ok {
			out = append(out, what)
		}
	}
	return out
}

// records is a stream of steps: a line with the step's name and the size of
// each of its fields, then the fields.
type records struct{ bytes.Buffer }

func (r *records) step(op string, fields ...string) {
	r.WriteString(op)
	for _, f := range fields {
		fmt.Fprintf(r, " %d", len(f))
	}
	r.WriteByte('\n')
	for _, f := range fields {
		r.WriteString(f)
	}
}

// Archive is everything that has to be sent, as one stream: what has to be
// there still, directories, copies to be kept, files, the new manifest. failed
// names places a first try could not write; they are left out, so that the
// manifest says what is true.
func (r *Round) Archive(failed map[string]bool) ([]byte, error) {
	var checks, dirs, aside, files, trim records
	p := guestPath
	for _, f := range r.files {
		dir := path.Dir(f.Guest)
		if failed[dir] {
			continue
		}
		switch {
		case f.now == nil:
			checks.step("none", p(f.Guest))
		case f.now.Type == 'f' && len(f.now.Sum) == 64:
			checks.step("same", f.now.Sum, p(f.Guest))
		case f.now.Type == 'l':
			checks.step("link", p(f.Guest), strings.TrimPrefix(f.now.Sum, "-> "))
		}
		if f.backup {
			aside.step("keep", p(f.Guest), p(f.Guest)+".aivm-"+r.stamp)
			trim.step("trim", p(dir), path.Base(f.Guest))
		}
		if f.Link != "" {
			files.step("sym", p(dir), path.Base(f.Guest), f.Link)
		} else {
			files.step("file", p(dir), path.Base(f.Guest), fmt.Sprintf("%o", f.Mode.Perm()), fmt.Sprint(f.Time.Unix()), string(f.Data))
		}
	}
	for _, m := range r.merges {
		dir := path.Dir(m.target)
		if failed[dir] {
			continue
		}
		if m.there {
			checks.step("same", sum([]byte(m.was)), p(m.target))
		} else {
			checks.step("none", p(m.target))
			dirs.step("dir", p(dir), "755")
		}
		files.step("file", p(dir), path.Base(m.target), "600", fmt.Sprint(r.now.Unix()), m.text)
	}
	for _, d := range r.dirs {
		dirs.step("dir", p(d.Guest), fmt.Sprintf("%o", d.Mode.Perm()))
	}
	man := r.manifest
	man.Files = map[string]Entry{}
	for k, v := range r.manifest.Files {
		if !failed[path.Dir(k)] {
			man.Files[k] = v
		}
	}
	b, err := json.Marshal(man)
	if err != nil {
		return nil, err
	}
	var out records
	for _, part := range []*records{&checks, &dirs, &aside, &files, &trim} {
		out.Write(part.Bytes())
	}
	for _, k := range slices.Sorted(maps.Keys(man.Files)) {
		out.step("seen", p(k))
	}
	id := make([]byte, idSize)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	out.step("sync", fmt.Sprintf("%x", id), fmt.Sprintf("{\"id\":\"%x\",\n%s\x00", id, b[1:]))
	out.step("end")
	return out.Bytes(), nil
}
