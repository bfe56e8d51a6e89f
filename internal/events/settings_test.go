package events

import (
	"fmt"
	"testing"
)

func TestSettings(t *testing.T) {
	c := DefaultConfig()
	err := c.ApplyEnvironment([]string{
		"PATH=/bin", "Redis__ConnectionString=redis:6379,password=a=b", "REDIS__METRICQUEUEWORKERS=4", "Redis__MetricQueueDatabase=2",
		"Redis__MetricQueueKey=q", "Metrics__MetricQueuePopCount=250", "Metrics__SortIncomingLabels=True", "Metrics__DisableMetaMetrics=true",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := RedisConfig{Address: "redis:6379,password=a=b", Workers: 4, Database: 2, Key: "q", PopCount: 250}
	if fmt.Sprint(*c.Redis) != fmt.Sprint(want) || c.MetaMetrics {
		t.Errorf("%+v, want %+v", *c.Redis, want)
	}
	f := func(variable, want string) {
		t.Helper()
		if got := fmt.Sprint(c.ApplyEnvironment([]string{variable})); got != want {
			t.Errorf("%s: %s, want %s", variable, got, want)
		}
	}
	f("Redis__MetricQueueWorkers=many", `Redis__MetricQueueWorkers: "many" is not a number`)
	f("Redis__Nonsense=1", "Redis__Nonsense: prom-stream-gateway has no such setting")
	f("Redis__ConnectionString=a,serviceName=b", "Redis__ConnectionString: option servicename of StackExchange.Redis is not there")
	f("Metrics__SortIncomingLabels=false", "Metrics__SortIncomingLabels: labels are always sorted; without that a set of labels in another order would be another series")
	f("Metrics__DisableMetaMetrics=0", "<nil>")
	if known, err := c.Apply("Redis:MetricQueueKey", "other"); !known || err != nil || c.Redis.Key != "other" {
		t.Errorf("%t, %v, %s", known, err, c.Redis.Key)
	}
	if known, _ := c.Apply("Logging.LogLevel.Default", "Information"); known {
		t.Error("a setting that means nothing here is known")
	}
}
