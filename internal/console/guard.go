package console

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// policy is the Content-Security-Policy of every answer: this console's own
// files, no inline script or style, no frames, and no strings made into markup.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; font-src 'self'; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types 'none'"

// guard is what every request passes, also those for what isn't there.
func (c *Console) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		// Never to another site: addresses may have a secret in them. Without any,
		// browsers would send forms from nowhere.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
		h.Set("Cache-Control", "no-store")
		if c.secure() {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		switch {
		case !c.ourHost(r.Host):
			// A name that somebody else's DNS gave this machine.
			http.Error(w, "This console is at "+c.public.String()+".", http.StatusMisdirectedRequest)
		case !safe(r.Method) && !c.sameOrigin(r):
			http.Error(w, "This request doesn't come from a page of this console. Go back, reload the page and try again.", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// ourHost tells whether a Host header names this console: by its public address,
// or by one of this machine's own.
func (c *Console) ourHost(host string) bool {
	if strings.EqualFold(host, c.public.Host) {
		return true
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	return loopback(strings.Trim(strings.ToLower(name), "[]"))
}

func safe(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// sameOrigin tells whether a browser says that a page of this console sent the
// request. What says nothing is refused: every browser sends Origin with POST.
// Beside it, the session's cookie is SameSite=Lax.
func (c *Console) sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	u, err := url.Parse(r.Header.Get("Origin"))
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return false
	}
	// Behind a proxy that ends TLS, this end doesn't know the scheme.
	return strings.EqualFold(u.Host, r.Host) && u.Scheme == c.public.Scheme || u.String() == c.public.String()
}

// from is the address that a request came from, for the bounds on sign-ins.
func (c *Console) from(r *http.Request) string {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	from := at.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && c.proxy(from); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		from = hop.Unmap()
	}
	return from.String()
}

func (c *Console) proxy(a netip.Addr) bool {
	for _, p := range c.Proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// localPath returns a path of this console to go on to, or "/": never another
// site's.
func localPath(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" ||
		!strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\t\r\n") {
		return "/"
	}
	return u.RequestURI()
}
