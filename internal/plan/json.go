package plan

// Dry is the JSON document that --dry-run prints with --json.
type Dry struct {
	Schema       int        `json:"schema"`
	Verb         string     `json:"verb"`
	VM           string     `json:"vm,omitempty"`
	Folder       string     `json:"folder,omitempty"`
	GuestDst     string     `json:"guest_dst,omitempty"`
	NeedsConsent bool       `json:"asks"`
	Stages       []DryStage `json:"stages"`
	Then         string     `json:"then,omitempty"`
}

// DryStage is one stage of a dry run.
type DryStage struct {
	Stage   Stage       `json:"stage"`
	Actions []DryAction `json:"actions"`
}

// DryAction is one action of a dry run.
type DryAction struct {
	ID      string   `json:"id"`
	Why     string   `json:"why"`
	Shows   []string `json:"shows"`
	Diff    string   `json:"diff,omitempty"`
	Root    bool     `json:"root"`
	Consent Consent  `json:"consent"`
}

// Describe converts plans to the stages of a dry run. Lists are never null in
// the JSON, and an action without Consent is "none".
func Describe(plans ...Plan) []DryStage {
	out := []DryStage{}
	for _, p := range plans {
		st := DryStage{Stage: p.Stage, Actions: []DryAction{}}
		for _, a := range p.Actions {
			c := a.Consent
			if c == "" {
				c = None
			}
			shows := a.Shows
			if shows == nil {
				shows = []string{}
			}
			st.Actions = append(st.Actions, DryAction{ID: a.ID, Why: a.Why, Shows: shows, Diff: a.Diff, Root: a.Root != nil, Consent: c})
		}
		out = append(out, st)
	}
	return out
}
