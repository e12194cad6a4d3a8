package qemu

import (
	"context"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// The same guest under emulation shows that it works, so that its silence under
// KVM says something about KVM.
func TestTinyGuestAnswers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := tinyGuest(ctx, realQEMU(t), vm.AccelTCG); err != nil {
		t.Fatal(err)
	}
}

func TestTinyGuestThatIsCutOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tinyGuest(ctx, realQEMU(t), vm.AccelTCG); err == nil {
		t.Fatal("a guest that had no time is taken for one that answered")
	}
	if err := tinyGuest(t.Context(), realQEMU(t), "no-such-accelerator"); err == nil {
		t.Fatal("a QEMU that refused is taken for a guest that answered")
	}
}

func TestKVMNeedsTheCPU(t *testing.T) {
	for _, c := range []struct {
		info string
		want bool
	}{
		{"processor\t: 0\nflags\t\t: fpu svm sse\n", true},
		{"flags\t\t: fpu vmx\n", true},
		{"flags\t\t: fpu svme vmxnet\nvmx flags\t: vnmi vmx\n", false},
		{"model name\t: svm vmx\nflags\t: fpu\n", false},
		{"", false},
	} {
		if got := virtualises([]byte(c.info)); got != c.want {
			t.Errorf("%q: %v, want %v", c.info, got, c.want)
		}
	}
	if usable, reason := KVMUsable(t.Context(), realQEMU(t)); usable == (reason != "") {
		t.Errorf("usable %v with reason %q", usable, reason)
	}
}
