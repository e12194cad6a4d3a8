package source

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/manifest"
)

// The file server of the standard library, with TLS and without.
func TestReadsFromFileServer(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data.bin"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	files := http.FileServer(http.Dir(dir)).ServeHTTP
	wants(t, serve(t, files).at("/data.bin"), nil)
	plain := httptest.NewServer(http.HandlerFunc(files))
	defer plain.Close()
	wants(t, manifest.Source{URL: plain.URL + "/data.bin"}, nil)
	refuses(t, serve(t, files).at("/other.bin"), nil, "is not at the source")
}

// Variables that name a proxy would send everything to whoever set them.
func TestNoProxyOfTheEnvironment(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://192.0.2.1:1")
	}
	w := serve(t, file(content, `"1"`))
	wants(t, w.at("/data.bin"), nil)
	tr, err := NewTransport(w.at("/data.bin"), nil)
	if err != nil || tr.Proxy != nil {
		t.Errorf("the transport has a proxy (%v)", err)
	}
}

func TestBrokenConnectionsHeal(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		ranges  bool
	}{
		{"with an entity tag", file(content, `"1"`), true},
		{"without a validator", file(content, ""), true},
		{"ranges are ignored", func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			file(content, `"1"`)(w, r)
		}, false},
		{"no length is told", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				_ = http.NewResponseController(w).Flush()
				_, _ = w.Write(content)
				return
			}
			file(content, "")(w, r)
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, breaks := 0, 4
			w := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if n++; n <= breaks {
					cut(100_000*n, tt.handler)(w, r)
					return
				}
				tt.handler(w, r)
			})
			p := &pauses{}
			got, err := readAll(t, w.at("/data.bin"), nil, p.options(len(content)))
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("got %d bytes and %v", len(got), err)
			}
			if !slices.Equal(p.slept, []time.Duration{time.Second, time.Second, time.Second, time.Second}[:len(p.slept)]) || len(p.slept) == 0 {
				t.Errorf("waited %v; each break came after some bytes, and so a second each", p.slept)
			}
			if last := p.broken[len(p.broken)-1]; last != "goes on" {
				t.Errorf("the last word is %q", last)
			}
			seen := w.requests()
			if seen[0].Header.Get("Range") != "" || seen[1].Header.Get("Range") == "" {
				t.Errorf("asked for %q, then %q", seen[0].Header.Get("Range"), seen[1].Header.Get("Range"))
			}
			if tt.ranges && seen[1].Header.Get("Range") == "bytes=0-" {
				t.Error("began at the beginning")
			}
		})
	}
}

func TestPausesGrowAndEnd(t *testing.T) {
	w := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	p := &pauses{}
	_, err := readAll(t, w.at("/"), nil, p.options(1))
	var problem *Problem
	if !errors.As(err, &problem) || problem.Passing || !strings.Contains(problem.Text, "status 503") || !strings.Contains(problem.Text, "given up") {
		t.Errorf("got %v", err)
	}
	want := []time.Duration{1, 2, 4, 8, 16, 32}
	for i := range want {
		want[i] *= time.Second
	}
	for len(want) < mostPauses {
		want = append(want, longestPause)
	}
	if !slices.Equal(p.slept, want) {
		t.Errorf("waited %v, want %v", p.slept, want)
	}
}

// A server that gives next to nothing each time is left alone for longer and longer,
// as one that gives nothing is.
func TestCrumbsAreNoProgress(t *testing.T) {
	w := serve(t, cut(1, file(content, `"1"`)))
	p := &pauses{}
	_, err := readAll(t, w.at("/"), nil, p.options(len(content)))
	var problem *Problem
	if !errors.As(err, &problem) || problem.Passing || !strings.Contains(problem.Text, "given up") {
		t.Errorf("got %v", err)
	}
	if n := len(w.requests()); n != mostPauses+1 || len(p.slept) != mostPauses || p.slept[1] != 2*firstPause || p.slept[mostPauses-1] != longestPause {
		t.Errorf("asked %d times, and waited %v", n, p.slept)
	}
}

// A server that stops sending is as good as gone.
func TestStalledConnectionHeals(t *testing.T) {
	n := 0
	w := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = w.Write(content[:1000])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		file(content, "")(w, r)
	})
	o := (&pauses{}).options(len(content))
	o.stall = 200 * time.Millisecond
	got, err := readAll(t, w.at("/"), nil, o)
	if err != nil || !bytes.Equal(got, content) || n < 2 {
		t.Errorf("got %d bytes in %d requests and %v", len(got), n, err)
	}
}

func TestEndsWithItsContext(t *testing.T) {
	begun := make(chan struct{})
	w := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(content[:1000])
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(context.Background())
	r, err := Open(ctx, w.at("/"), nil, Options{Size: int64(len(content))})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		<-begun
		cancel()
	}()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestChangedObjectIsRefused(t *testing.T) {
	other := bytes.Clone(content)
	other[len(other)-1] ^= 1
	for _, tt := range []struct {
		name  string
		after http.HandlerFunc
	}{
		{"another entity tag", file(other, `"2"`)},
		{"no entity tag any more", file(other, "")},
		{"another length", file(append(bytes.Clone(content[:len(content)-1]), "xy"...), `"1"`)},
		{"shorter than what came", file(content[:10], `"1"`)},
		{"ranges ignored and another tag", func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			file(other, `"2"`)(w, r)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			w := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if n++; n == 1 {
					cut(300_000, file(content, `"1"`))(w, r)
					return
				}
				tt.after(w, r)
			})
			_, err := readAll(t, w.at("/"), nil, (&pauses{}).options(len(content)+1))
			var problem *Problem
			if !errors.As(err, &problem) || !strings.Contains(problem.Text, "changed at the source") || n != 2 {
				t.Errorf("got %v after %d requests", err, n)
			}
		})
	}
}

func TestAnotherPartIsRefused(t *testing.T) {
	n := 0
	w := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			cut(300_000, file(content, `"1"`))(w, r)
			return
		}
		r.Header.Set("Range", "bytes=5-")
		file(content, `"1"`)(w, r)
	})
	_, err := readAll(t, w.at("/"), nil, (&pauses{}).options(len(content)))
	if err == nil || !strings.Contains(err.Error(), "another part") {
		t.Errorf("got %v", err)
	}
}

func TestAnswersThatEndAPull(t *testing.T) {
	answer := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "words of the server")
		}
	}
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		secret  string
		words   string
	}{
		{"401", answer(401), "", "needs credentials for the file (status 401): hand them over"},
		{"403", answer(403), "", "needs credentials for the file (status 403): hand them over"},
		{"403 with credentials", answer(403), `{"bearer":"t"}`, "refuses the credentials for the file (status 403)"},
		{"404", answer(404), "", "is not at the source (status 404)"},
		{"410", answer(410), "", "is not at the source (status 410)"},
		{"400", answer(400), "", "does not send the file (status 400)"},
		{"204", answer(204), "", "does not send the file (status 204)"},
		{"longer, as it says", file(append(bytes.Clone(content), 'x'), ""), "", "longer than the dataset"},
		{"longer, and no length", func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(append(bytes.Clone(content), 'x'))
		}, "", "longer than the dataset"},
		{"compressed", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			file(content, "")(w, r)
		}, "", "compressed"},
		{"a part at once", func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Range", "bytes=0-99")
			file(content, "")(w, r)
		}, "", "another part"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := serve(t, tt.handler)
			refuses(t, w.at("/"), secretOf(t, tt.secret), tt.words)
			if n := len(w.requests()); n != 1 {
				t.Errorf("%d requests were made", n)
			}
		})
	}
}

func TestCertificateIsVerified(t *testing.T) {
	w := serve(t, file(content, ""))
	s := w.at("/")
	s.Authorities = "" // the public ones, which don't know it
	refuses(t, s, nil, "not vouched for")
	s = w.at("/")
	s.URL = strings.Replace(w.URL, "127.0.0.1", "localhost", 1)
	refuses(t, s, nil, "not vouched for") // another name
	if roots, err := Roots(manifest.Source{}); err != nil || roots.Equal(x509.NewCertPool()) {
		t.Errorf("the public authorities: %v", err)
	}
}

func TestCredentialsOfTheWeb(t *testing.T) {
	w := serve(t, func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		if (name != "alice" || password != "s3cret:x") && r.Header.Get("Authorization") != "Bearer tok3n" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		file(content, "")(w, r)
	})
	wants(t, w.at("/"), secretOf(t, `{"basic":{"username":"alice","password":"s3cret:x"}}`))
	wants(t, w.at("/"), secretOf(t, `{"bearer":"tok3n"}`))
	refuses(t, w.at("/"), secretOf(t, `{"bearer":"t0ken"}`), "refuses the credentials")
	plain := httptest.NewServer(w.Config.Handler)
	defer plain.Close()
	refuses(t, manifest.Source{URL: plain.URL}, secretOf(t, `{"bearer":"tok3n"}`), "plain http")
}

func TestRedirects(t *testing.T) {
	const bearer = `{"bearer":"tok3n"}`
	target := serve(t, file(content, ""))
	insecure := httptest.NewServer(file(content, ""))
	defer insecure.Close()
	to := func(url string) *web {
		return serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, url, http.StatusTemporaryRedirect) })
	}
	with := func(w *web, redirects ...string) manifest.Source {
		s := w.at("/")
		s.Authorities, s.Redirects = authority(w, target), redirects
		return s
	}
	t.Run("to a stranger", func(t *testing.T) {
		refuses(t, with(to(target.URL)), nil, "none of the manifest's servers")
		if n := len(target.requests()); n != 0 {
			t.Errorf("the stranger had %d requests", n)
		}
	})
	t.Run("to one that is named, without the credentials", func(t *testing.T) {
		w := to(target.URL)
		wants(t, with(w, target.host()), secretOf(t, bearer))
		if first := w.requests()[0]; first.Header.Get("Authorization") != "Bearer tok3n" {
			t.Error("the server did not have its credentials")
		}
		for _, r := range target.requests() {
			if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" {
				t.Errorf("the other server was told %v", r.Header)
			}
		}
	})
	t.Run("away and back", func(t *testing.T) {
		var back *web
		away := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, back.URL+"/final", http.StatusFound) })
		back = serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/final" {
				if r.Header.Get("Authorization") != "" {
					t.Error("credentials came back after the chain had left the server")
				}
				file(content, "")(w, r)
				return
			}
			http.Redirect(w, r, away.URL, http.StatusFound)
		})
		s := back.at("/first")
		s.Authorities, s.Redirects = authority(away, back), []string{away.host()}
		wants(t, s, secretOf(t, bearer))
	})
	t.Run("down to http", func(t *testing.T) {
		host := strings.TrimPrefix(insecure.URL, "http://")
		refuses(t, with(to(insecure.URL), host), nil, "from https to")
	})
	t.Run("up to https and down again", func(t *testing.T) {
		host := strings.TrimPrefix(insecure.URL, "http://")
		up := to(insecure.URL)
		first := httptest.NewServer(http.RedirectHandler(up.URL, http.StatusFound))
		defer first.Close()
		refuses(t, manifest.Source{URL: first.URL, Redirects: []string{up.host(), host}, Authorities: authority(up)}, nil, "from https to")
	})
	t.Run("in a circle", func(t *testing.T) {
		var w *web
		w = serve(t, func(out http.ResponseWriter, r *http.Request) { http.Redirect(out, r, w.URL, http.StatusFound) })
		refuses(t, w.at("/"), nil, "on more than 5 times")
	})
	t.Run("to another scheme", func(t *testing.T) {
		refuses(t, with(to("ftp://"+target.host()+"/"), target.host()), nil, "from https to")
	})
}

// What asks a key broker speaks with it alone, and follows nothing.
func TestClientOfOneServer(t *testing.T) {
	target := serve(t, file(content, ""))
	w := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target.URL, http.StatusFound) })
	s := manifest.Source{Authorities: authority(w, target)}
	c, err := NewClient(s, nil, w.host())
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	resp, err := c.Get(w.URL)
	if err != nil || resp.StatusCode != http.StatusFound {
		t.Fatalf("got %v %v", resp, err)
	}
	resp.Body.Close()
	for _, url := range []string{target.URL, "http://" + w.host()} {
		if resp, err := c.Get(url); err == nil {
			resp.Body.Close()
			t.Errorf("%s was asked", url)
		}
	}
}
