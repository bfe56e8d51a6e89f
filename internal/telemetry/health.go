package telemetry

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Health knows of everything that the process needs for its work whether it has it. It is an http.Handler for
// /-/ready, and a prometheus.Collector. Safe for concurrent use.
type Health struct {
	mu         sync.Mutex
	conditions []*Condition
}

// Condition is one thing that the process needs, such as its connection to NATS.
type Condition struct {
	health *Health
	status ConditionStatus
}

// ConditionStatus is the state of a condition at a moment.
type ConditionStatus struct {
	Name   string    `json:"name"`
	Ready  bool      `json:"ready"`
	Reason string    `json:"reason,omitempty"` // why it is not ready, or what is amiss although it is; "" if nothing
	Since  time.Time `json:"since"`            // when it last became ready, or not
}

// NewHealth returns a Health without conditions, which is ready.
func NewHealth() *Health { return &Health{} }

// Condition declares a condition, not ready yet. A second call with the same name returns the same condition.
func (h *Health) Condition(name string) *Condition {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conditions {
		if c.status.Name == name {
			return c
		}
	}
	c := &Condition{health: h, status: ConditionStatus{Name: name, Reason: "starting", Since: time.Now()}}
	h.conditions = append(h.conditions, c)
	return c
}

// Ready says that the condition holds.
func (c *Condition) Ready() { c.set(true, "") }

// NotReady says that the condition does not hold, and why, in a short phrase for people.
func (c *Condition) NotReady(reason string) { c.set(false, reason) }

// Degraded says that the condition holds, but that something is amiss which people should know of.
func (c *Condition) Degraded(reason string) { c.set(true, reason) }

func (c *Condition) set(ready bool, reason string) {
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	if c.status.Ready != ready {
		c.status.Since = time.Now()
	}
	c.status.Ready, c.status.Reason = ready, reason
}

// Conditions returns the state of all conditions, in the order of their declaration.
func (h *Health) Conditions() []ConditionStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]ConditionStatus, len(h.conditions))
	for i, c := range h.conditions {
		list[i] = c.status
	}
	return list
}

// Ready reports whether all conditions hold.
func (h *Health) Ready() bool {
	return !slices.ContainsFunc(h.Conditions(), func(c ConditionStatus) bool { return !c.Ready })
}

// ServeHTTP answers 200, with a line for each condition that is degraded, or 503 with a line for each that does not
// hold.
func (h *Health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	var waiting, amiss strings.Builder
	for _, c := range h.Conditions() {
		if !c.Ready {
			fmt.Fprintf(&waiting, "waiting for %s: %s (since %s)\n", c.Name, c.Reason, c.Since.UTC().Format(time.RFC3339))
		} else if c.Reason != "" {
			fmt.Fprintf(&amiss, "%s: %s\n", c.Name, c.Reason)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if waiting.Len() > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, waiting.String())
		return
	}
	fmt.Fprintln(w, "Thalweg is ready.")
	fmt.Fprint(w, amiss.String())
}

var conditionDesc = prometheus.NewDesc("thalweg_condition_ready",
	"Whether the process has what it needs, one series for each thing.", []string{"condition"}, nil)

// Describe implements prometheus.Collector.
func (h *Health) Describe(ch chan<- *prometheus.Desc) { ch <- conditionDesc }

// Collect implements prometheus.Collector.
func (h *Health) Collect(ch chan<- prometheus.Metric) {
	for _, c := range h.Conditions() {
		value := 0.0
		if c.Ready {
			value = 1
		}
		ch <- prometheus.MustNewConstMetric(conditionDesc, prometheus.GaugeValue, value, c.Name)
	}
}
