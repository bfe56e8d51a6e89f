package lane

import (
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// Hello is what an edge says at each connect and from time to time after, as JSON, on its hello subject.
type Hello struct {
	Site    string `json:"site"`
	Version string `json:"version"`
	Epoch   string `json:"epoch"`
	// FrameVersions that the edge can write, best first.
	FrameVersions []int `json:"frame_versions"`
	// Control is the subject on which the edge takes Control requests.
	Control string `json:"control"`
	// NowMs is the edge's clock, in milliseconds since 1970.
	NowMs int64 `json:"now_ms"`
	// Heard are the instances of hubs that answered already; they stay silent. Only the first answer to a request passes
	// from one account to another, so an edge asks until nobody else answers.
	Heard []string `json:"heard,omitempty"`
}

// Welcome is a hub's answer to a Hello. An edge goes on without.
type Welcome struct {
	Hub string `json:"hub"`
	// Instance tells the processes of hubs apart, whatever their names.
	Instance string `json:"instance,omitempty"`
	NowMs    int64  `json:"now_ms"`
	// FrameVersion is the newest that the hub reads.
	FrameVersion int `json:"frame_version"`
	// KeyframeIntervalMs is the longest keyframe interval that suits the hub; 0: any.
	KeyframeIntervalMs int64 `json:"keyframe_interval_ms,omitempty"`
	// BytesPerSecond is what the hub takes from the site; 0: it does not count.
	BytesPerSecond int64 `json:"bytes_per_second,omitempty"`
}

// DefaultBytesPerSecond is what a hub takes from a site unless it is told otherwise, and what an edge sends at most that
// no hub has answered yet.
const DefaultBytesPerSecond = 2 << 20

// Control is a request of a hub to an edge, as JSON, on the edge's control subject.
type Control struct {
	Hub string `json:"hub"`
	Op  string `json:"op"` // OpKeyframe
}

// OpKeyframe asks for a keyframe on the live lane.
const OpKeyframe = "keyframe"

// ControlAnswer is the edge's answer to a Control.
type ControlAnswer struct {
	Done   bool   `json:"done"`
	Reason string `json:"reason,omitempty"`
}

// FrameVersions that this release writes and reads, best first.
func FrameVersions() []int { return frame.Versions() }

// VersionChoice is the version of the frames that an edge writes: the newest that all hubs read which answer its hellos,
// but no newer than the one before the newest until they were asked twice, since an answer may get lost. Hubs that can
// read nothing that this release writes change nothing.
type VersionChoice struct {
	version, raise int
}

// Version to write.
func (c *VersionChoice) Version() int {
	if c.version == 0 {
		return slices.Min(FrameVersions())
	}
	return c.version
}

// Round takes what the hubs offered that answered; it reports whether they should be asked again soon.
func (c *VersionChoice) Round(offers []int) (again bool) {
	if len(offers) == 0 {
		return false
	}
	want, lowest := slices.Min(FrameVersions()), slices.Min(offers)
	for _, v := range FrameVersions() {
		if v <= lowest {
			want = max(want, v)
		}
	}
	if want > c.Version() && c.raise != want {
		c.raise = want
		return true
	}
	c.version, c.raise = want, 0
	return false
}
