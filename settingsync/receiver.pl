sub fail { print STDERR "$_[0]\n"; exit 1 }
umask 077;
chdir or fail("no home");
my ($s, $n, $d, %failed, @steps) = ("__STATE_DIR__", 0);
sub names { opendir my $o, $_[0] or return; return readdir $o }
$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);
END { if (defined $d) { unlink map { "$d/$_" } 0 .. $n; rmdir $d } }
sub make_dirs {
	my ($p, $mode) = @_;
	return 1 if -d $p;
	make_dirs($1, 0700) or return if $p =~ m{^(.*[^/])/+[^/]+$}s;
	mkdir $p and chmod $mode, $p;
	return -d $p;
}
sub failed { my $dir = $_[0] =~ s{^\./}{}r; print "failed $dir\n" unless $failed{$dir}++ }
# aivm may start this before there is anything to send: until then it changes nothing.
defined(my $head = readline STDIN) or fail("the archive is incomplete");
make_dirs($s, 0700) or fail("$s cannot be created");
open my $lock, ">", "$s/lock" or fail("$s/lock: $!");
for (my $i = 0; !flock $lock, 6; $i++) {
	fail("another run is still writing settings") if $i == 600;
	select undef, undef, undef, 0.1;
}
my @old = map { "$s/$_" } grep { /^in\./ } names($s);
system "rm", "-rf", "--", @old if @old;
mkdir "$s/in.$$" or fail("$s/in.$$: $!");
$d = "$s/in.$$";

sub read_field {
	my ($n, $b) = (shift, "");
	while ((my $left = $n - length $b) > 0) {
		read(STDIN, $b, $left, length $b) or fail("the archive is incomplete");
	}
	return $b;
}
my $complete;
for (; defined $head; $head = readline STDIN) {
	my ($op, @sizes) = split " ", $head;
	if ($op eq "end") { $complete = 1; last }
	my @f = map { read_field($_) } @sizes;
	if ($op eq "file" || $op eq "sync") {
		my $data = pop @f;
		my $at = "$d/" . $n++;
		open my $o, ">", $at or fail("$at: $!");
		print $o $data and close $o or fail("$at: $!");
		push @f, $at;
	}
	push @steps, [$op, @f];
}
fail("the archive is incomplete") unless $complete;

# output_of returns what a program prints about paths, 500 paths per call.
sub output_of {
	my ($program, $after, @paths) = @_;
	my $text = "";
	while (my @some = splice @paths, 0, 500) {
		open my $p, "-|", @$program, @some, @$after or fail("$program->[0]: $!");
		local $/;
		$text .= <$p> // "";
		close $p;
	}
	return $text;
}
my %sum = map { $_->[0] eq "same" ? ($_->[2], $_->[1]) : () } @steps;
if (my @paths = sort keys %sum) {
	for (@paths) { lstat; exit __CHANGED__ unless -f _ }
	for (split /\0/, output_of(["sha256sum", "-z", "--"], [], @paths)) {
		my ($is, $p) = /^(\w{64})  (.*)$/s or exit __CHANGED__;
		delete $sum{$p} if $sum{$p} eq $is;
	}
	exit __CHANGED__ if %sum;
}
# state returns what find prints in statFormat for a file, with times in nanoseconds, which perl's
# own stat lacks.
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
		exit __CHANGED__ if lstat $f[0];
	} elsif ($op eq "link") {
		exit __CHANGED__ unless (readlink($f[0]) // "") eq $f[1];
	} elsif ($op eq "dir") {
		make_dirs($f[0], oct $f[1]) or failed($f[0]);
	} elsif ($op eq "keep") {
		link $f[0], $f[1] or system("cp", "-P", "-p", "--", $f[0], $f[1]) == 0 or fail("$f[1]: $!");
	} elsif ($op eq "file" || $op eq "sym") {
		my ($dir, $name, $mode, $time, $at) = @f;
		my $to = "$dir/$name";
		if ($op eq "sym") {
			$at = "$d/" . $n++;
			symlink $f[2], $at or fail("$at: $!");
		} else {
			utime $time, $time, $at;
			chmod oct $mode, $at;
		}
		next if rename $at, $to;
		# The target is on another file system, so mv copies.
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
		open my $o, ">>", $at or fail("$at: $!");
		print $o $states;
		print $o output_of(["find"], ["-maxdepth", "0", "-type", "f", "-printf", 'S__STAT_FORMAT__ %p\0'], @seen) if @seen;
		my @old = grep { /^sync\.\w{32}$/ } names($s);
		link $at, "__STATE_FILE__.$id"; # if this fails, the state is read every time
		close $o and rename $at, "__STATE_FILE__" or fail("__STATE_FILE__: $!");
		unlink map { "$s/$_" } @old;
	}
}
