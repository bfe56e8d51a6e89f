// Package telemetry is what the process says about itself: its log, its metrics registry, whether it is ready, and its
// own metrics as rows.
//
//	log, err := telemetry.OpenLog(telemetry.LogOptions{Level: "info", Format: "logfmt"})
//	metrics := telemetry.NewMetrics(telemetry.Build{Version: version})
//	health := telemetry.NewHealth()
//	nats := health.Condition("nats edge") // not ready until somebody says so
//	nats.Ready()
//
// It promises that a log line that repeats does not fill the log, and that every condition ever declared is listed with
// its reason. It opens no listener: package web does.
package telemetry
