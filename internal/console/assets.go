package console

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed static
var staticFiles embed.FS

// assets are the static files by the name under which they are served, which
// changes with their content: browsers keep them for ever. In a style sheet
// {NAME} stands for another's name.
type assets struct {
	served map[string][]byte
	names  map[string]string
}

var assetTypes = map[string]string{
	".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
	".svg": "image/svg+xml", ".woff2": "font/woff2",
}

func loadAssets() (assets, error) {
	a := assets{map[string][]byte{}, map[string]string{}}
	entries, err := fs.ReadDir(staticFiles, "static")
	if err != nil {
		return a, err
	}
	// Style sheets come last: they name the others.
	for _, styles := range []bool{false, true} {
		for _, e := range entries {
			name := e.Name()
			ext := path.Ext(name)
			if (ext == ".css") != styles || assetTypes[ext] == "" {
				continue // licences lie beside what they are of
			}
			b, err := staticFiles.ReadFile("static/" + name)
			if err != nil {
				return a, err
			}
			if styles {
				text := string(b)
				for of, as := range a.names {
					text = strings.ReplaceAll(text, "{"+of+"}", as)
				}
				b = []byte(text)
			}
			sum := sha256.Sum256(b)
			served := strings.TrimSuffix(name, ext) + "-" + hex.EncodeToString(sum[:6]) + ext
			a.names[name], a.served[served] = served, b
		}
	}
	return a, nil
}

// path is where a file is served. A template that names none doesn't render.
func (a assets) path(name string) (string, error) {
	served := a.names[name]
	if served == "" {
		return "", fmt.Errorf("there is no static file %q", name)
	}
	return "/static/" + served, nil
}

func (c *Console) serveAsset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	b, known := c.static.served[name]
	if !known {
		http.Error(w, "There is no such file.", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", assetTypes[path.Ext(name)])
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(b)
}
