// Package events is the event gateway: processes that live for milliseconds throw JSON metric events at a queue and
// forget; the gateway aggregates them exactly and durably.
package events
