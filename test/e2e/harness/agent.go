package harness

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"google.golang.org/grpc"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// SendDataset uploads a dataset past cocos-cli, which sends nothing that the
// manifest does not name, and returns what the agent says.
func (r *Run) SendDataset(name string, content []byte) error {
	r.h.t.Helper()
	b, err := os.ReadFile(r.keyFile)
	if err != nil {
		r.h.t.Fatal(err)
	}
	key, err := keys.ParsePrivatePEM(b)
	if err != nil {
		r.h.t.Fatal(err)
	}
	creds, err := atls.Client(atls.ClientConfig{ServerKey: r.Key})
	if err != nil {
		r.h.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+r.Address, append(bulk.DialOptions(), grpc.WithTransportCredentials(creds),
		grpc.WithPerRPCCredentials(callauth.Signer{Key: key, Role: manifest.DatasetProvider, Digest: r.Manifest.Digest}))...)
	if err != nil {
		r.h.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), RunLimit)
	defer cancel()
	s, err := agentv1.NewAgentServiceClient(conn).Upload(ctx)
	if err != nil {
		return err
	}
	err = s.Send(&agentv1.UploadRequest{Message: &agentv1.UploadRequest_Begin{Begin: &agentv1.UploadBegin{
		Input: &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_DATASET, Name: name},
	}}})
	if err == nil {
		chunks := bulk.NewSender(s.SendMsg, nil)
		_, err = chunks.ReadFrom(bytes.NewReader(content))
		err = errors.Join(err, chunks.Close())
	}
	if err != nil && !errors.Is(err, io.EOF) { // then the agent has said why
		return err
	}
	_, err = s.CloseAndRecv()
	return err
}
