use strict;
my ($dev, $start) = @ARGV;
my ($bs, @free);
open my $list, '-|', 'dumpe2fs', $dev or die "dumpe2fs: $!";
while (<$list>) {
	$bs = $1 if /^Block size:\s+(\d+)/;
	next unless /^\s+Free blocks: (\d.*)/;
	push @free, map { /^(\d+)(?:-(\d+))?$/ ? [$1, $2 // $1] : () } split /,\s*/, $1;
}
close $list or die 'dumpe2fs failed';
die 'no block size' unless $bs;
my $n = int(65536 / $bs);
exit 0 if $n < 2;
my $off = int($start * 512 % 65536 / $bs);
open my $disk, '+<', $dev or die "$dev: $!";
binmode $disk;
sub zero {
	my ($from, $to) = @_;
	my $bytes = ($to - $from + 1) * $bs;
	sysseek($disk, $from * $bs, 0) or die "seek: $!";
	syswrite($disk, "\0" x $bytes) == $bytes or die "write: $!";
}
for (@free) {
	my ($from, $to) = @$_;
	my $head = $from + (-($from + $off)) % $n;
	my $tail = $to + 1 - ($to + 1 + $off) % $n;
	if ($head >= $tail) { zero($from, $to); next }
	zero($from, $head - 1) if $head > $from;
	zero($tail, $to) if $tail <= $to;
}
close $disk or die "close: $!";
