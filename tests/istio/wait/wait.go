// Package wait polls: tests wait for what they need, and not for a time.
package wait

import (
	"testing"
	"time"
)

const deadline = 20 * time.Second

// Until ends the test if the condition, named by what, does not come true.
func Until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for late := time.Now().Add(deadline); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("not within %v: %s", deadline, what)
		}
	}
}
