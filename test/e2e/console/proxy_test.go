package console

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
)

// proxy is one before the service, whose way to it can be cut.
type proxy struct {
	*httptest.Server
	down atomic.Bool
	// refused counts the streams that it answered in the service's place.
	refused atomic.Int64
}

func throughProxy(t *testing.T, to string) *proxy {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	p, through := &proxy{}, httputil.NewSingleHostReverseProxy(u)
	through.ErrorLog = log.New(io.Discard, "", 0)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.down.Load() {
			p.refused.Add(1)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		through.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { p.CloseClientConnections(); p.Close() })
	return p
}

// cut ends all that goes through, and answers 502 until it is called with false.
func (p *proxy) cut(down bool) {
	p.down.Store(down)
	if down {
		p.CloseClientConnections()
	}
}
