package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/hal/progress"
)

// parallel is how many packages are downloaded at a time.
const parallel = 4

// stall is how long a server may send nothing before a download is tried again.
const stall = time.Minute

// attempts is how often a download is tried when the connection breaks.
const attempts = 3

// CacheDir returns the one folder for downloads: COCOS_CACHE, or "cocos" in
// XDG_CACHE_HOME or in ~/.cache. It must be an absolute path.
func CacheDir(getenv func(string) string) (string, error) {
	dir := getenv("COCOS_CACHE")
	if dir == "" {
		base := getenv("XDG_CACHE_HOME")
		if base == "" {
			home := getenv("HOME")
			if home == "" {
				return "", errors.New("no folder for downloads: neither COCOS_CACHE, XDG_CACHE_HOME nor HOME is set; set COCOS_CACHE")
			}
			base = filepath.Join(home, ".cache")
		}
		dir = filepath.Join(base, "cocos")
	}
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("folder for downloads %q: COCOS_CACHE (or XDG_CACHE_HOME) must be an absolute path", dir)
	}
	return filepath.Clean(dir), nil
}

// Cache keeps downloaded packages in one folder.
type Cache struct {
	Dir    string
	Client *http.Client
	Log    *progress.Log
	Stall  time.Duration // how long a server may send nothing
}

// NewCache returns the cache in dir. It goes through the proxy of the
// environment or else the one of apt's configuration.
func NewCache(dir string, log *progress.Log) *Cache {
	t := http.DefaultTransport.(*http.Transport).Clone()
	aptProxy := sync.OnceValues(aptProxy)
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		if u, err := http.ProxyFromEnvironment(r); u != nil || err != nil {
			return u, err
		}
		return aptProxy()
	}
	return &Cache{Dir: dir, Client: &http.Client{Transport: t}, Log: log, Stall: stall}
}

func aptProxy() (*url.URL, error) {
	out, err := exec.Command("apt-config", "shell", "P", "Acquire::http::Proxy").Output()
	if err != nil {
		return nil, nil // no apt, so no setting of it
	}
	_, v, _ := strings.Cut(strings.TrimSpace(string(out)), "=")
	v = strings.Trim(v, `'"`)
	if v == "" || v == "DIRECT" {
		return nil, nil
	}
	return url.Parse(v)
}

// Path is where a package lies once it was fetched.
func (c *Cache) Path(p Package) string { return filepath.Join(c.Dir, p.fileName()) }

// Missing returns those of pkgs that are not in the cache, and removes what
// was damaged there.
func (c *Cache) Missing(pkgs []Package) ([]Package, error) {
	var missing []Package
	for _, p := range pkgs {
		err := c.Check(p)
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			c.Log.Printf("  %v: fetching it again", err)
			if err := os.Remove(c.Path(p)); err != nil {
				return nil, fmt.Errorf("removing a damaged package: %w", err)
			}
		}
		missing = append(missing, p)
	}
	return missing, nil
}

// Check hashes a cached package.
func (c *Cache) Check(p Package) error {
	f, err := os.Open(c.Path(p))
	if err != nil {
		return fmt.Errorf("cached package: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("cached package: %w", err)
	}
	if n != p.Size || hex.EncodeToString(h.Sum(nil)) != p.SHA256 {
		return fmt.Errorf("cached package %s is damaged", c.Path(p))
	}
	return nil
}

// Fetch downloads pkgs from m, several at a time. A file appears in the cache
// only with the right size and digest.
func (c *Cache) Fetch(ctx context.Context, m Mirror, pkgs []Package) error {
	if len(pkgs) == 0 {
		return nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return fmt.Errorf("making the cache folder: %w; set COCOS_CACHE to a folder that you may write", err)
	}
	var total int64
	for _, p := range pkgs {
		total += p.Size
	}
	bar := c.Log.Bar(fmt.Sprintf("downloading %d packages", len(pkgs)), total)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, p := range pkgs {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := c.fetch(ctx, m, p, bar); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	bar.Done()
	return nil
}

func (c *Cache) fetch(ctx context.Context, m Mirror, p Package, bar *progress.Bar) error {
	base, err := m.base(p.Archive)
	if err != nil {
		return err
	}
	// "+" stays "+" in a path for some servers and becomes a blank for others.
	u := base + "/" + strings.NewReplacer("+", "%2b", "~", "%7e").Replace(p.Path)
	for i := 1; ; i++ {
		n, err := c.download(ctx, u, p, bar)
		if err == nil {
			return nil
		}
		bar.Add(-n)
		var final finalError
		if errors.As(err, &final) || i == attempts || ctx.Err() != nil {
			return fmt.Errorf("fetching package %s from %s: %w", p, base, err)
		}
	}
}

// finalError marks what another attempt would not cure.
type finalError struct{ error }

func (c *Cache) download(ctx context.Context, u string, p Package, bar *progress.Bar) (n int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.Stall, func() {
		cancel(fmt.Errorf("the mirror sent nothing for %s", progress.Duration(c.Stall)))
	})
	defer watch.Stop()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return 0, finalError{err}
	}
	resp, err := c.Client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("%w; check the network or set %s", err, MirrorVariable)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		return 0, finalError{fmt.Errorf("the mirror no longer has %s: run `make hal-update` to take the current version", p.Path)}
	case resp.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("the mirror answered %s", resp.Status)
	}
	f, err := os.CreateTemp(c.Dir, ".part-*")
	if err != nil {
		return 0, finalError{fmt.Errorf("making a file in the cache: %w", err)}
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	n, err = io.Copy(io.MultiWriter(f, h, counter(func(n int) {
		watch.Reset(c.Stall)
		bar.Add(int64(n))
	})), io.LimitReader(resp.Body, p.Size+1))
	if err != nil {
		return n, err
	}
	if n < p.Size {
		return n, fmt.Errorf("the mirror sent %d bytes of %d", n, p.Size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != p.Size || got != p.SHA256 {
		return n, finalError{fmt.Errorf("the mirror sent a file with sha256 %s (%d bytes or more), want %s (%d): it is not what Debian signed; use another mirror (%s)", got, n, p.SHA256, p.Size, MirrorVariable)}
	}
	if err := f.Chmod(0o644); err != nil {
		return n, finalError{err}
	}
	if err := f.Sync(); err != nil {
		return n, finalError{err}
	}
	if err := os.Rename(f.Name(), c.Path(p)); err != nil {
		return n, finalError{err}
	}
	return n, nil
}

type counter func(n int)

func (c counter) Write(b []byte) (int, error) {
	c(len(b))
	return len(b), nil
}

// Ensure makes all pkgs available in the cache. When something is missing it
// asks apt for the current signed indexes, and downloads only what they list.
func (c *Cache) Ensure(ctx context.Context, apt func() (*Apt, error), pkgs []Package) error {
	missing, err := c.Missing(pkgs)
	if err != nil || len(missing) == 0 {
		return err
	}
	a, err := apt()
	if err != nil {
		return err
	}
	done := c.Log.Stage("fetching %s's indexes and checking their signatures", a.Release)
	if err := a.Update(ctx); err != nil {
		return err
	}
	if err := a.Verify(ctx, missing); err != nil {
		return err
	}
	done()
	return c.Fetch(ctx, a.Mirror, missing)
}
