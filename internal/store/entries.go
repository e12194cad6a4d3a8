package store

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/ultravioletrs/cocos/internal/computations"
)

type entry = computations.Entry

var entryTable = newTable("entries", "run_id position type source sequence time level kind message attributes dropped committed", 2, "", "",
	func(e *entry) []any {
		return []any{&e.Run, &e.Position, &e.Type, &e.Source, &e.Sequence, moment{&e.Time}, &e.Level, &e.Kind, &e.Message,
			doc{&e.Attributes}, &e.Dropped, moment{&e.Committed}}
	})

// maxEntries bounds what one call of Entries or AuditChain returns.
const maxEntries = 1000

// Entries reads along the run's positions.
func (x *tx) Entries(run id, ef computations.EntryFilter) ([]entry, error) {
	var f filter
	using := ""
	f.add("t.run_id = ?", run)
	order := "t.position"
	switch {
	case ef.Backward:
		order = "t.position DESC"
		if ef.After > 0 {
			f.add("t.position < ?", ef.After)
		}
	case ef.After > 0:
		f.add("t.position > ?", ef.After)
	}
	if slices.Equal(ef.Types, []computations.EntryType{computations.EntryEvent}) {
		f.add("t.type = 'event'") // as its index says
		using = x.session.dialect().using("entries_events")
	} else {
		among(&f, "t.type", ef.Types)
	}
	among(&f, "t.source", ef.Sources)
	among(&f, "t.level", ef.Levels)
	if ef.Kind != "" {
		f.add("t.kind = ?", ef.Kind)
	}
	if ef.Text != "" {
		part := strings.ToLower(ef.Text)
		ascii := !strings.ContainsFunc(part, func(r rune) bool { return r > unicode.MaxASCII })
		f.add(x.session.dialect().contains("t.message", "?", true, ascii), part)
	}
	if !ef.From.IsZero() {
		f.add("t.time >= ?", ef.From)
	}
	if !ef.To.IsZero() {
		f.add("t.time < ?", ef.To)
	}
	rest := using + f.where("ORDER BY "+order+" LIMIT "+strconv.Itoa(entryLimit(ef.Limit)))
	if ef.Bytes <= 0 {
		return entryTable.all(x, rest, f.args...)
	}
	left := ef.Bytes
	return entryTable.until(x, func(e *entry) bool { left -= e.Size(); return left <= 0 }, rest, f.args...)
}

func entryLimit(n int) int {
	if n <= 0 || n > maxEntries {
		return maxEntries
	}
	return n
}

// bulk is an INSERT of many rows at once.
type bulk struct {
	table    string
	columns  []string
	types    []string // text, bigint, boolean
	conflict string   // ON CONFLICT ...; may be empty
}

func (b *bulk) insert(values string) string {
	return "INSERT INTO " + b.table + " (" + strings.Join(b.columns, ", ") + ") " + values + " " + b.conflict
}

// numbers are "1" to n.
func numbers(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = strconv.Itoa(i + 1)
	}
	return list
}

var (
	entryRows = &bulk{table: "entries",
		columns: []string{"run_id", "position", "type", "source", "sequence", "time", "level", "kind", "message", "attributes", "dropped", "committed"},
		types:   []string{"text", "bigint", "text", "text", "bigint", "bigint", "text", "text", "text", "text", "bigint", "bigint"}}
	placeRows = &bulk{table: "positions",
		columns:  []string{"run_id", "last", "sequences", "swept", "bytes"},
		types:    []string{"text", "bigint", "text", "boolean", "bigint"},
		conflict: "ON CONFLICT (run_id) DO UPDATE SET last = excluded.last, sequences = excluded.sequences, swept = excluded.swept, bytes = excluded.bytes"}
)

// place is a row of positions.
type place struct {
	last      int64
	sequences map[string]int64
	swept     bool
	bytes     int64
}

// maxSources bounds how many sources' highest sequences are kept: a host may make
// up any number of them. Events of others are looked for each time.
const maxSources = 8

type eventKey struct {
	run      id
	source   string
	sequence int64
}

// Append holds the places of all runs in the batch, in the order of their IDs,
// from the first statement to the commit. An event above its source's highest
// sequence is new without a look.
func (x *tx) Append(entries []entry) ([]entry, error) {
	if len(entries) == 0 {
		return nil, x.failed
	}
	places, err := x.places(entries)
	if err != nil {
		return nil, err
	}
	known, err := x.known(entries, places)
	if err != nil {
		return nil, err
	}
	kept := make([]entry, 0, len(entries))
	rows := make([][]any, 0, len(entries))
	now := x.now()
	for _, e := range entries {
		p := places[e.Run]
		if e = cleanEntry(e); e.Type == computations.EntryEvent && e.Sequence > 0 {
			key := eventKey{e.Run, e.Source, e.Sequence}
			if known[key] {
				continue
			}
			known[key] = true
			if highest, ok := p.sequences[e.Source]; ok || len(p.sequences) < maxSources {
				p.sequences[e.Source] = max(highest, e.Sequence)
			}
		}
		p.last++
		p.bytes += e.Bytes()
		e.Position, e.Told = p.last, p.bytes
		if e.Committed.IsZero() {
			e.Committed = now
		}
		kept = append(kept, e)
		attributes, err := doc{&e.Attributes}.Value()
		if err != nil {
			return nil, x.fail(err)
		}
		rows = append(rows, []any{string(e.Run), e.Position, string(e.Type), e.Source, e.Sequence, nanoseconds(e.Time), e.Level,
			e.Kind, e.Message, attributes, e.Dropped, nanoseconds(e.Committed)})
	}
	if len(kept) == 0 {
		return nil, nil
	}
	if err := x.savePlaces(places); err != nil {
		return nil, err
	}
	return kept, x.fail(x.session.bulk(entryRows, rows))
}

func cleanEntry(e entry) entry {
	e.Source, e.Level, e.Kind, e.Message = text(e.Source), text(e.Level), text(e.Kind), text(e.Message)
	e.Attributes = cleanMap(e.Attributes)
	if e.Type == computations.EntryEvent && e.Level == "" {
		e.Level = "info"
	}
	e.Time = timeOf(nanoseconds(e.Time))
	return e
}

// cleanMap is m with texts that both databases keep.
func cleanMap(m map[string]string) map[string]string {
	for k, v := range m {
		if text(k) != k || text(v) != v {
			clean := make(map[string]string, len(m))
			for _, k := range slices.Sorted(maps.Keys(m)) {
				clean[text(k)] = text(m[k])
			}
			return clean
		}
	}
	return m
}

// places reads and holds the places of the entries' runs.
func (x *tx) places(entries []entry) (map[id]*place, error) {
	all := map[id]*place{}
	for _, e := range entries {
		all[e.Run] = nil
	}
	var names []string
	for _, r := range slices.Sorted(maps.Keys(all)) {
		names = append(names, string(r))
	}
	if x.failed != nil {
		return nil, x.failed
	}
	d := x.session.dialect()
	err := x.session.query(func(scan func(...any) error) error {
		var run id
		p := &place{sequences: map[string]int64{}}
		err := scan(&run, &p.last, doc{&p.sequences}, &p.swept, &p.bytes)
		all[run] = p
		return err
	}, "SELECT run_id, last, sequences, swept, bytes FROM positions WHERE "+d.isAnyOf("run_id", "$1")+" ORDER BY run_id"+d.forUpdate(), []any{d.list(names)})
	if err != nil {
		return nil, x.fail(err)
	}
	for r, p := range all {
		switch {
		case p == nil: // its first entries
			all[r] = &place{sequences: map[string]int64{}}
		case p.swept: // more came after the rest had gone
			if _, err := x.exec("UPDATE runs SET swept = FALSE WHERE id = $1", r); err != nil {
				return nil, err
			}
			p.swept = false
		}
	}
	return all, nil
}

// savePlaces is ErrNoRow where there is no such run.
func (x *tx) savePlaces(places map[id]*place) error {
	rows := make([][]any, 0, len(places))
	for _, r := range slices.Sorted(maps.Keys(places)) {
		p := places[r]
		sequences, err := doc{&p.sequences}.Value()
		if err != nil {
			return x.fail(err)
		}
		rows = append(rows, []any{string(r), p.last, sequences, p.swept, p.bytes})
	}
	return x.fail(x.session.bulk(placeRows, rows))
}

// known finds which of the events are there already, among those that may be.
func (x *tx) known(entries []entry, places map[id]*place) (map[eventKey]bool, error) {
	found := map[eventKey]bool{}
	type source struct {
		run  id
		name string
	}
	asked := map[source][]int64{}
	for _, e := range entries {
		s := source{e.Run, text(e.Source)}
		highest, ok := places[e.Run].sequences[s.name]
		full := !ok && len(places[e.Run].sequences) >= maxSources
		if e.Type == computations.EntryEvent && e.Sequence > 0 && (e.Sequence <= highest || full) {
			asked[s] = append(asked[s], e.Sequence)
		}
	}
	const some = 50
	query := "SELECT sequence FROM entries WHERE run_id = $1 AND source = $2 AND sequence > 0 AND sequence IN ($3"
	for i := 1; i < some; i++ {
		query += ", $" + strconv.Itoa(i+3)
	}
	query += ")"
	for s, sequences := range asked {
		for chunk := range slices.Chunk(sequences, some) {
			args := []any{s.run, s.name}
			for i := range some {
				args = append(args, chunk[min(i, len(chunk)-1)])
			}
			err := x.query(func(scan func(...any) error) error {
				var n int64
				err := scan(&n)
				found[eventKey{s.run, s.name, n}] = true
				return err
			}, query, args...)
			if err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}
