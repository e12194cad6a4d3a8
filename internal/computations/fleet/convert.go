package fleet

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/manifest"
)

// Bounds of what is kept of a host's words, in bytes and counts.
const (
	maxText       = 8 << 10
	maxWord       = 64
	maxAttributes = 32
	// maxAttributeText bounds all attributes of an event together, and maxReason
	// what becomes part of why a run is as it is, which lists show.
	maxAttributeText = 16 << 10
	maxReason        = 1 << 10
	maxFindings      = 64
	maxImages        = 16
	// maxSequence bounds an honest source's events of one run. What comes beyond is
	// acknowledged and not kept, so that a guest can't cut off the host that it runs on.
	// With Config.MaxBytes and shortText a run keeps at most some 150 MiB.
	maxSequence = 1 << 16
	// itemSize is what an item costs beside its text, in bytes.
	itemSize = 256
)

var sources = map[eventv1.Source]string{
	eventv1.Source_SOURCE_AGENT:   sourceAgent,
	eventv1.Source_SOURCE_SHIM:    sourceShim,
	eventv1.Source_SOURCE_MANAGER: sourceManager,
}

var levels = map[eventv1.Level]string{
	eventv1.Level_LEVEL_DEBUG: "debug",
	eventv1.Level_LEVEL_INFO:  "info",
	eventv1.Level_LEVEL_WARN:  "warn",
	eventv1.Level_LEVEL_ERROR: "error",
}

// runOf refuses what can't be anybody's run.
func runOf(run string) (computations.ID, error) {
	if id, err := uuid.Parse(run); err != nil || id.String() != run {
		return "", status.Errorf(codes.InvalidArgument, "run_id %q is not a UUID in its canonical form", telemetry.Clean(run, maxWord))
	}
	return computations.ID(run), nil
}

// keyOf refuses what can't be anybody's run and source.
func keyOf(run string, source eventv1.Source) (computations.ID, string, error) {
	id, err := runOf(run)
	if err != nil {
		return "", "", err
	}
	name, ok := sources[source]
	if !ok {
		return "", "", status.Errorf(codes.InvalidArgument, "%d is no source of events", source)
	}
	return id, name, nil
}

func eventItem(e *eventv1.Event, now time.Time) (*item, error) {
	run, source, err := keyOf(e.GetRunId(), e.GetSource())
	if err != nil {
		return nil, err
	}
	ack := &managerv1.EventAck{RunId: e.GetRunId(), Source: e.GetSource(), Sequence: e.GetSequence()}
	switch n := e.GetSequence(); {
	case n == 0:
		return nil, status.Error(codes.InvalidArgument, "sequence 0 is no event's; the first one has 1")
	case n > maxSequence:
		return &item{run: run, size: itemSize, ack: ack, beyond: true}, nil
	}
	entry := &computations.Entry{
		Run: run, Type: computations.EntryEvent, Source: source, Sequence: int64(e.GetSequence()), Time: timeOf(e.GetTime(), now),
		Level: "info", Kind: kindOf(e.GetKind()), Message: telemetry.Clean(e.GetMessage(), maxText), Attributes: attributes(e.GetAttributes()),
	}
	it := &item{run: run, entry: entry, ack: ack}
	it.size = itemSize + len(entry.Message)
	for k, v := range entry.Attributes {
		it.size += len(k) + len(v)
	}
	return it, nil
}

func logItem(l *eventv1.Log, dropped uint64, now time.Time) (*item, error) {
	run, source, err := keyOf(l.GetRunId(), l.GetSource())
	if err != nil {
		return nil, err
	}
	level, ok := levels[l.GetLevel()]
	if !ok {
		level = "info"
	}
	entry := &computations.Entry{
		Run: run, Type: computations.EntryLog, Source: source, Time: timeOf(l.GetTime(), now), Level: level,
		Message: telemetry.Clean(l.GetMessage(), maxText), Dropped: int64(min(l.GetDropped(), math.MaxInt32) + min(dropped, math.MaxInt32)),
	}
	return &item{run: run, entry: entry, size: itemSize + len(entry.Message)}, nil
}

// timeOf is the source's time, if a database can hold it.
func timeOf(t *timestamppb.Timestamp, now time.Time) time.Time {
	if !t.IsValid() {
		return now
	}
	at := t.AsTime()
	if at.Year() < 1970 || at.Year() > 9999 {
		return now
	}
	return at.UTC().Truncate(time.Microsecond)
}

// kindOf is an event's kind, if it could be one of the list: newer hosts may have
// more of them than this service knows.
func kindOf(kind string) string {
	if kind == "" || len(kind) > maxWord || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
		return "unknown"
	}
	return kind
}

// attributes are bounded, and harmless to show.
func attributes(in map[string]string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := map[string]string{}
	left := maxAttributeText
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if len(out) == maxAttributes {
			break
		}
		if name == "" || len(name) > maxWord || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" {
			continue
		}
		out[name] = telemetry.Clean(in[name], min(maxText, left))
		left -= len(out[name])
	}
	return out
}

// reportOf is what a Manager says of its host, bounded and harmless to show.
func reportOf(h *managerv1.Hello) computations.HostReport {
	r := computations.HostReport{
		Instance: telemetry.Clean(h.GetInstanceId(), 128), Version: telemetry.Clean(h.GetVersion(), 128), EOS: telemetry.Clean(h.GetEosVersion(), 128),
		Capacity: count(h.GetCapacity()), Running: len(h.GetRuns()), MemoryTotal: bytesOf(h.GetMemoryBytes()), CPUs: count(h.GetCpus()),
	}
	for _, tee := range h.GetTees() {
		if t := manifest.TEE(tee); t != manifest.TEENone && slices.Contains(manifest.TEEs(), t) && !slices.Contains(r.TEEs, t) {
			r.TEEs = append(r.TEEs, t)
		}
	}
	for _, i := range h.GetImages() {
		if len(r.Images) == maxImages {
			break
		}
		if b, err := hex.DecodeString(i.GetDigest()); err != nil || len(b) != 32 {
			continue
		}
		image := computations.Image{Digest: strings.ToLower(i.GetDigest())}
		for name, value := range i.GetMeasurements() {
			if _, err := hex.DecodeString(value); err != nil || name == "" || len(name) > maxWord || len(value) > 2*maxWord || len(image.Measurements) == maxAttributes {
				continue
			}
			if image.Measurements == nil {
				image.Measurements = map[string]string{}
			}
			image.Measurements[telemetry.Clean(name, maxWord)] = value
		}
		r.Images = append(r.Images, image)
	}
	for _, f := range h.GetFindings() {
		if len(r.Findings) == maxFindings {
			break
		}
		r.Findings = append(r.Findings, computations.Finding{
			Name: telemetry.Clean(f.GetName(), maxWord), Verdict: telemetry.Clean(f.GetVerdict(), maxWord), Found: telemetry.Clean(f.GetFound(), 1024),
			Needed: telemetry.Clean(f.GetNeeded(), 1024), Mend: telemetry.Clean(f.GetMend(), 1024),
		})
	}
	return r
}

func count(n uint32) int { return int(min(n, 1<<20)) }

func bytesOf(n uint64) int64 { return int64(min(n, 1<<60)) }

// statusItem is how a host stands.
func statusItem(m *managerv1.HostStatus) *item {
	return &item{size: itemSize, host: func(r *computations.HostReport) {
		r.Running, r.Closed = count(m.GetRunning()), m.GetClosed()
		if n := count(m.GetCapacity()); n > 0 {
			r.Capacity = n
		}
		r.MemoryFree = bytesOf(m.GetMemoryFreeBytes())
		r.Load = 0
		if l := m.GetLoad(); l >= 0 && l < 1e6 { // and not NaN
			r.Load = l
		}
	}}
}

// refusal is what counts of a host's no; text is for people.
type refusal struct {
	text string
	// passing: for want of room, which may be there soon. Nothing in it is about
	// the run.
	passing bool
	// unknown: the host says that it never had the run.
	unknown bool
}

// refusalOf is nil for a yes.
func refusalOf(r *managerv1.Refusal) *refusal {
	if r == nil {
		return nil
	}
	faults := r.GetFaults()
	return &refusal{
		text: faultsText(faults),
		passing: len(faults) > 0 && !slices.ContainsFunc(faults, func(f *managerv1.Fault) bool {
			return f.GetReason() != reasonNoCapacity || f.GetField() != ""
		}),
		unknown: len(faults) > 0 && faults[0].GetReason() == reasonNotFound,
	}
}

func runReplyItem(m *managerv1.RunReply) (*item, error) {
	run, err := runOf(m.GetRunId())
	if err != nil {
		return nil, err
	}
	return replyItem(run, &reply{refused: refusalOf(m.GetRefusal()), port: strconv.FormatUint(uint64(m.GetAgentHostPort()), 10)}), nil
}

func stopReplyItem(m *managerv1.StopReply) (*item, error) {
	run, err := runOf(m.GetRunId())
	if err != nil {
		return nil, err
	}
	return replyItem(run, &reply{refused: refusalOf(m.GetRefusal()), stop: true}), nil
}

func replyItem(run computations.ID, r *reply) *item {
	it := &item{run: run, reply: r, size: itemSize}
	if r.refused != nil {
		it.size += len(r.refused.text)
	}
	return it
}

// faultsText puts a refusal into one line for people.
func faultsText(faults []*managerv1.Fault) string {
	var parts []string
	for _, f := range faults {
		if len(parts) == 8 {
			parts = append(parts, fmt.Sprintf("and %d more", len(faults)-8))
			break
		}
		text := telemetry.Clean(f.GetMessage(), 512)
		if f.GetField() != "" {
			text = telemetry.Clean(f.GetField(), 128) + " " + text
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return "it did not say why"
	}
	return telemetry.Clean(strings.Join(parts, "; "), maxReason)
}

// The Manager's reasons that are acted on.
const (
	reasonNoCapacity = "NO_CAPACITY"
	reasonNotFound   = "NOT_FOUND"
)
