package vmpi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	maxDepth  = 16
	maxValues = 5000
)

// A value is one value of a file, with its line. Exactly one of its kinds is set: kids of a table
// have keys, those of a list have none.
type value struct {
	key    string
	line   int
	table  bool
	list   bool
	kids   []value
	scalar any // string, int64, float64, bool or nil
}

func (v value) child(key string) (value, bool) {
	for _, k := range v.kids {
		if k.key == key {
			return k, true
		}
	}
	return value{}, false
}

// A syntaxError is a mistake in a file, and its line.
type syntaxError struct {
	line    int
	message string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.message) }

// parse returns the table in a file; name tells whether it is JSON or YAML.
func parse(name string, text []byte) (value, error) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	var v value
	var err error
	if strings.HasSuffix(name, ".json") {
		v, err = parseJSON(text)
	} else {
		v, err = parseYAML(text)
	}
	if err == nil && !v.table {
		err = &syntaxError{1, "it is not a table of keys"}
	}
	return v, err
}

// jsonReader reads the tokens of a JSON text and counts the values.
type jsonReader struct {
	text  []byte
	dec   *json.Decoder
	count int
}

func parseJSON(text []byte) (value, error) {
	r := &jsonReader{text: text, dec: json.NewDecoder(bytes.NewReader(text))}
	r.dec.UseNumber()
	v, err := r.value(0)
	if err == nil {
		if _, end := r.dec.Token(); !errors.Is(end, io.EOF) {
			err = r.wrong("there is text after the value")
		}
	}
	return v, err
}

func (r *jsonReader) line() int {
	return 1 + bytes.Count(r.text[:min(int(r.dec.InputOffset()), len(r.text))], []byte("\n"))
}

func (r *jsonReader) wrong(format string, args ...any) error {
	return &syntaxError{r.line(), fmt.Sprintf(format, args...)}
}

func (r *jsonReader) value(depth int) (value, error) {
	t, err := r.dec.Token()
	if err != nil {
		return value{}, r.wrong("it is not JSON: %v", err)
	}
	v := value{line: r.line()}
	if r.count++; r.count > maxValues || depth > maxDepth {
		return v, r.wrong("it has too many values")
	}
	switch t := t.(type) {
	case json.Delim:
		v.table, v.list = t == '{', t == '['
		for r.dec.More() {
			key := ""
			if v.table {
				k, err := r.dec.Token()
				if err != nil {
					return v, r.wrong("it is not JSON: %v", err)
				}
				key, _ = k.(string)
				if _, twice := v.child(key); twice {
					return v, r.wrong("the key %q is there twice", key)
				}
			}
			line := r.line()
			kid, err := r.value(depth + 1)
			if err != nil {
				return v, err
			}
			if kid.key = key; v.table {
				kid.line = line
			}
			v.kids = append(v.kids, kid)
		}
		if _, err := r.dec.Token(); err != nil {
			return v, r.wrong("it is not JSON: %v", err)
		}
	case json.Number:
		if n, err := t.Int64(); err == nil {
			v.scalar = n
		} else {
			v.scalar, _ = t.Float64()
		}
	default:
		v.scalar = t
	}
	return v, nil
}

func parseYAML(text []byte) (value, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return value{table: true, line: 1}, nil // an empty file
	case err != nil:
		return value{}, yamlError(err)
	}
	var next yaml.Node
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		return value{}, &syntaxError{1, "it has more than one document"}
	}
	if len(doc.Content) != 1 {
		return value{}, &syntaxError{1, "it is not a table of keys"}
	}
	count := 0
	return yamlValue(doc.Content[0], 0, &count)
}

// yamlError returns a parser's error as a syntaxError ("yaml: line 3: did not find ...").
func yamlError(err error) error {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if n, scanErr := fmt.Sscanf(message, "line %d:", &line); n == 1 && scanErr == nil {
		_, message, _ = strings.Cut(message, ": ")
	}
	return &syntaxError{line, "it is not YAML: " + message}
}

func yamlValue(n *yaml.Node, depth int, count *int) (value, error) {
	v := value{line: n.Line}
	wrong := func(message string) (value, error) { return v, &syntaxError{n.Line, message} }
	if *count++; *count > maxValues || depth > maxDepth {
		return wrong("it has too many values")
	}
	switch n.Kind {
	case yaml.MappingNode:
		v.table = true
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge" {
				return wrong("only simple keys are read")
			}
			if _, twice := v.child(k.Value); twice {
				return wrong(fmt.Sprintf("the key %q is there twice", k.Value))
			}
			kid, err := yamlValue(n.Content[i+1], depth+1, count)
			if err != nil {
				return v, err
			}
			kid.key, kid.line = k.Value, k.Line
			v.kids = append(v.kids, kid)
		}
	case yaml.SequenceNode:
		v.list = true
		for _, c := range n.Content {
			kid, err := yamlValue(c, depth+1, count)
			if err != nil {
				return v, err
			}
			v.kids = append(v.kids, kid)
		}
	case yaml.ScalarNode:
		v.scalar = yamlScalar(n)
	default:
		return wrong("aliases are not read")
	}
	return v, nil
}

// yamlScalar returns a plain value by its resolved tag.
func yamlScalar(n *yaml.Node) any {
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b
		}
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i
		}
	case "!!float":
		var f float64
		if n.Decode(&f) == nil {
			return f
		}
	}
	return n.Value
}
