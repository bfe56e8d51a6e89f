package lane

import "github.com/thalweg/thalweg/internal/frame"

// Hello is what an edge says at each connect and every HelloInterval after, as JSON, on its hello subject.
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
}

// Welcome is a hub's answer to a Hello. An edge goes on without.
type Welcome struct {
	Hub   string `json:"hub"`
	NowMs int64  `json:"now_ms"`
	// FrameVersion that the edge should write.
	FrameVersion int `json:"frame_version"`
	// KeyframeIntervalMs is the longest keyframe interval that suits the hub; 0: any.
	KeyframeIntervalMs int64 `json:"keyframe_interval_ms,omitempty"`
}

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

// FrameVersions that this release writes and reads.
func FrameVersions() []int { return []int{frame.Version} }
