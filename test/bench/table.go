package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// figure is one line of the table.
type figure struct {
	name, value, reference, ratio, limit string
	verdict                              string
}

type table struct {
	figures []figure
	failed  bool // something could not be measured
}

// add adds a measured figure; met says whether it is within its limit.
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

func (t *table) write(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "figure\tvalue\treference\tratio\tlimit\t")
	for _, f := range t.figures {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", f.name, f.value, f.reference, f.ratio, f.limit, f.verdict)
	}
	_ = tw.Flush()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func ratio(r float64) string { return fmt.Sprintf("%.2f", r) }

// median returns the median of any number of values; 0 if there are none.
func median[T time.Duration | float64 | int64](vs []T) T {
	if len(vs) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(vs))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// pairs holds measurements taken alternately: aivm's and the reference's.
type pairs struct{ aivm, reference []time.Duration }

// take runs both once. It changes the order from pair to pair, so that a drift affects both alike.
func (p *pairs) take(aivm, reference func() (time.Duration, error)) error {
	order := []struct {
		f  func() (time.Duration, error)
		to *[]time.Duration
	}{{aivm, &p.aivm}, {reference, &p.reference}}
	if len(p.aivm)%2 == 1 {
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

// ratio returns the median of the pairs' ratios.
func (p *pairs) ratio() float64 {
	var rs []float64
	for i := range p.aivm {
		rs = append(rs, float64(p.aivm[i])/float64(p.reference[i]))
	}
	return median(rs)
}
