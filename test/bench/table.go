package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// figure is one line of the result.
type figure struct {
	name, value, rival, ratio, bar string
	verdict                        string
}

type table struct {
	figures []figure
	failed  bool // something could not be measured
}

// add notes a figure that was measured; met says whether it keeps its bar.
func (t *table) add(f figure, met bool) {
	f.verdict = "ok"
	if !met {
		f.verdict = "MISSED"
	}
	t.figures = append(t.figures, f)
}

func (t *table) notMeasured(name string, err error) {
	t.failed = true
	t.figures = append(t.figures, figure{name: name, value: "-", verdict: "NOT MEASURED: " + err.Error()})
}

func (t *table) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "figure\tvalue\trival\tratio\tbar\t")
	for _, f := range t.figures {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", f.name, f.value, f.rival, f.ratio, f.bar, f.verdict)
	}
	_ = tw.Flush()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func ratio(r float64) string { return fmt.Sprintf("%.2f", r) }

// median of an odd or even number of values; of none, zero.
func median[T time.Duration | float64 | int64](vs []T) T {
	if len(vs) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(vs))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// pairs are measurements taken in turn, ours beside the rival's.
type pairs struct{ ours, rival []time.Duration }

// take runs both once, in an order that changes from pair to pair, so that
// what drifts meets both alike.
func (p *pairs) take(ours, rival func() (time.Duration, error)) error {
	order := []struct {
		f  func() (time.Duration, error)
		to *[]time.Duration
	}{{ours, &p.ours}, {rival, &p.rival}}
	if len(p.ours)%2 == 1 {
		slices.Reverse(order)
	}
	for _, o := range order {
		d, err := o.f()
		if err != nil {
			return err
		}
		*o.to = append(*o.to, d)
	}
	return nil
}

// ratio is the median of the pairs' ratios.
func (p *pairs) ratio() float64 {
	var rs []float64
	for i := range p.ours {
		rs = append(rs, float64(p.ours[i])/float64(p.rival[i]))
	}
	return median(rs)
}
