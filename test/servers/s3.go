package servers

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// S3 is an S3-compatible server that lets nobody in without a signature.
type S3 struct {
	*Server
	// Endpoint is its URL, Region its name of it.
	Endpoint, Region     string
	AccessKey, SecretKey string
}

// StartS3 runs one, empty.
func StartS3(t testing.TB) *S3 {
	t.Helper()
	dir := t.TempDir()
	cert, key, authority := certificate(t, dir)
	for _, sub := range []string{"data", "meta"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s := &S3{Region: "eu-test-1", AccessKey: "test-access", SecretKey: "test-secret-key"}
	s.Server = start(t, program(t, "github.com/ultravioletrs/cocos/test/servers/programs/s3"), dir, authority, "/",
		[]string{"ROOT_ACCESS_KEY=" + s.AccessKey, "ROOT_SECRET_KEY=" + s.SecretKey},
		func(host string) []string {
			return []string{host, cert, key, s.Region, filepath.Join(dir, "meta"), filepath.Join(dir, "data")}
		})
	s.Endpoint = "https://" + s.Host
	return s
}

// Bucket makes a bucket.
func (s *S3) Bucket(t testing.TB, name string) { s.put(t, "/"+name, nil) }

// Put writes an object.
func (s *S3) Put(t testing.TB, bucket, key string, b []byte) { s.put(t, "/"+bucket+"/"+key, b) }

func (s *S3) put(t testing.TB, path string, b []byte) {
	t.Helper()
	r := request(t, http.MethodPut, s.Endpoint+path, b)
	sum := sha256.Sum256(b)
	r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	s.do(t, signer.SignV4(*r, s.AccessKey, s.SecretKey, "", s.Region), http.StatusOK)
}
