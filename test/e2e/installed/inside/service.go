package inside

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// Where the Computation Management service is.
const (
	serviceUnit    = "cocos-computations.service"
	serviceEnvFile = "/etc/cocos/cocos-computations.env"
	serviceDir     = "/var/lib/cocos-computations"
	serviceOwner   = "cocos-computations"
)

// get wants a page of the service to be there, with a text in it.
func get(url, want string) error {
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
		return fmt.Errorf("%s answers %s without %q", url, resp.Status, want)
	}
	return nil
}

// setService writes the service's configuration.
func setService(lines ...string) error {
	return os.WriteFile(serviceEnvFile, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// asService runs a command of the program as its page says.
func (w *world) asService(args ...string) (string, error) {
	return w.command("systemd-run", append([]string{"--pipe", "--quiet", "--uid=" + serviceOwner, "--working-directory=/etc/cocos",
		"-p", "EnvironmentFile=" + serviceEnvFile, "cocos-computations"}, args...)...)
}

// theService starts it on its defaults, as its unit's user, on a port that only root
// may have, and with a configuration that is wrong.
func theService(w *world) error {
	shipped, err := os.ReadFile(serviceEnvFile)
	if err != nil {
		return err
	}
	if err := setService("COMPUTATIONS_LOG_LEVEL=loud"); err != nil {
		return err
	}
	if _, err := w.command("systemctl", "start", serviceUnit); err == nil {
		return errors.New("the service starts with a configuration that is wrong")
	}
	if err := within("the journal tells of the configuration", func() (bool, error) {
		out, err := w.commandQuietly("journalctl", "--no-pager", "-u", serviceUnit)
		return strings.Contains(out, `COMPUTATIONS_LOG_LEVEL="loud" is not valid`), err
	}); err != nil {
		return err
	}
	if _, err := w.command("systemctl", "stop", serviceUnit); err != nil {
		return err
	}
	if err := os.WriteFile(serviceEnvFile, shipped, 0o600); err != nil {
		return err
	}
	// What systemd calls started serves.
	if _, err := w.command("systemctl", "start", serviceUnit); err != nil {
		return err
	}
	for _, err := range []error{
		get("http://127.0.0.1:9102/readyz", `"ready":true`),
		get("http://127.0.0.1:7080/sign-in", "Sign in"),
		wantFile(serviceDir, os.ModeDir|0o700, serviceOwner),
		wantFile(serviceDir+"/authority.pem", 0o600, serviceOwner),
		wantFile(serviceDir+"/cocos.db", 0o600, serviceOwner),
		within("the journal has the first link", func() (bool, error) {
			out, err := w.commandQuietly("journalctl", "--no-pager", "-u", serviceUnit)
			return strings.Contains(out, "http://127.0.0.1:7080/link/cl_"), err
		}),
	} {
		if err != nil {
			return err
		}
	}
	// Root would leave files that the service can't open.
	out, err := w.command("cocos-computations", "audit-verify")
	if err == nil {
		return errors.New("root reads the service's folder")
	}
	if err := contains(out, "systemd-run"); err != nil {
		return err
	}
	if out, err = w.asService("audit-verify"); err != nil {
		return err
	}
	if err := contains(out, "each with the hash of the one before"); err != nil {
		return err
	}
	if err := setService("COMPUTATIONS_HTTP_ADDR=127.0.0.1:80"); err != nil {
		return err
	}
	if _, err := w.command("systemctl", "restart", serviceUnit); err != nil {
		return err
	}
	if err := get("http://127.0.0.1/sign-in", "Sign in"); err != nil {
		return err
	}
	// Stopped, it has a way back in for its administrator.
	if _, err := w.command("systemctl", "stop", serviceUnit); err != nil {
		return err
	}
	if out, err = w.asService("link"); err != nil {
		return err
	}
	if err := contains(out, "/link/cl_"); err != nil {
		return err
	}
	return os.WriteFile(serviceEnvFile, shipped, 0o600)
}
