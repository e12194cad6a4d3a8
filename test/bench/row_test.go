package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   series
		want float64
	}{
		{nil, 0},
		{series{7}, 7},
		{series{3, 1}, 2},
		{series{9, 1, 5}, 5},
		{series{10, 1, 2, 4}, 3},
	} {
		before := append(series(nil), tt.in...)
		if got := tt.in.median(); got != tt.want {
			t.Errorf("median of %v: %v, want %v", tt.in, got, tt.want)
		}
		if !reflect.DeepEqual(before, append(series(nil), tt.in...)) {
			t.Errorf("median changed the order of %v to %v", before, tt.in)
		}
	}
}

func TestRatio(t *testing.T) {
	for _, tt := range []struct {
		name string
		row  row
		want float64 // -1: none
	}{
		{"value over reference", row{values: series{8}, reference: "r", referenceValues: series{10}}, 0.8},
		{"of medians, not of means", row{values: series{1, 2, 300}, reference: "r", referenceValues: series{4, 4, 400}}, 0.5},
		{"no reference", row{values: series{8}}, -1},
		{"a reference that was not measured", row{values: series{8}, reference: "r"}, -1},
		{"a reference of zero", row{values: series{8}, reference: "r", referenceValues: series{0}}, -1},
	} {
		got := tt.row.ratio()
		if (got == nil) != (tt.want < 0) || got != nil && *got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestAim(t *testing.T) {
	r := func(value float64) row {
		return row{values: series{value}, reference: "r", referenceValues: series{10}}
	}
	for _, tt := range []struct {
		aim  aim
		row  row
		want string
	}{
		{aim{}, r(8), "-"},
		{aim{atLeast: true, bound: 0.8}, r(8), "ratio >= 0.8: met"},
		{aim{atLeast: true, bound: 0.8}, r(7.9), "ratio >= 0.8: missed"},
		{aim{bound: 1.25}, r(12.5), "ratio <= 1.25: met"},
		{aim{bound: 1.25}, r(12.6), "ratio <= 1.25: missed"},
		{aim{ofValue: true, bound: 64}, r(64), "value <= 64: met"},
		{aim{ofValue: true, bound: 64}, r(64.1), "value <= 64: missed"},
		{aim{ofValue: true, atLeast: true, bound: 5}, r(4), "value >= 5: missed"},
		// What has no ratio has not met an aim for it.
		{aim{bound: 1.25}, row{values: series{1}}, "ratio <= 1.25: missed"},
	} {
		if got := tt.aim.text(tt.row); got != tt.want {
			t.Errorf("%+v of %v: %q, want %q", tt.aim, tt.row.values, got, tt.want)
		}
	}
}

var testRows = []row{
	{
		name: "with", unit: "MiB/s", values: series{300, 100, 200}, reference: "beside it", referenceValues: series{400, 390, 410},
		aim: aim{atLeast: true, bound: 0.8},
	},
	{name: "without", unit: "MiB", values: series{1.23456}},
}

func TestWriteTable(t *testing.T) {
	var b strings.Builder
	if err := writeTable(&b, testRows); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	want := []string{
		"NAME VALUE (MIN..MAX) UNIT REFERENCE VALUE (MIN..MAX) RATIO AIM REFERENCE",
		"with 200 100..300 MiB/s 400 390..410 0.50 ratio >= 0.8: missed beside it",
		"without 1.23 - MiB - - - - -",
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), b.String())
	}
	for i, line := range lines {
		if got := strings.Join(strings.Fields(line), " "); got != want[i] {
			t.Errorf("line %d: %q, want %q", i, got, want[i])
		}
	}
}

func TestNumber(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 0.00875: "0.00875", 1.2345: "1.23", 99.94: "99.9", 123.4: "123", 4434.6: "4435"} {
		if got := number(x); got != want {
			t.Errorf("number(%v) = %q, want %q", x, got, want)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	name := filepath.Join(t.TempDir(), "build", "bench.json")
	if err := writeJSON(name, testRows); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	want := []map[string]any{
		{"name": "with", "value": 200.0, "unit": "MiB/s", "reference": "beside it", "reference_value": 400.0, "ratio": 0.5},
		{"name": "without", "value": 1.23456, "unit": "MiB", "reference": nil, "reference_value": nil, "ratio": nil},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v\nwant\n%v", got, want)
	}
	if left, err := os.ReadDir(filepath.Dir(name)); err != nil || len(left) != 1 {
		t.Errorf("beside the figures there is more: %v %v", left, err)
	}
	// Without any row the file is still an array.
	if err := writeJSON(name, nil); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || strings.TrimSpace(string(b)) != "[]" {
		t.Errorf("no rows: %q %v", b, err)
	}
}
