package push

import (
	"fmt"
	"time"

	"github.com/prometheus/common/model"
)

// GatewayConfig is what a section that receives says of the Gateway.
type GatewayConfig struct {
	// How long a group is kept after its last push. The header Thalweg-TTL of a push overrides it for its group. 0s: until
	// it is deleted.
	TTL model.Duration `yaml:"pushgateway_ttl"`
	// Serve PUT /api/v1/admin/wipe, which deletes all groups (of the site of whoever asks).
	Admin bool `yaml:"pushgateway_admin"`
}

// Validate reports what is wrong, beginning with the key.
func (c *GatewayConfig) Validate() error {
	if c.TTL != 0 && time.Duration(c.TTL) < time.Second {
		return fmt.Errorf("pushgateway_ttl: %s is neither 0s nor at least 1s", c.TTL)
	}
	return nil
}
