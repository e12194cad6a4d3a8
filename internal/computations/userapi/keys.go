package userapi

import (
	"context"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/keys"
)

type userKeys struct {
	computationsv1.UnimplementedKeysServiceServer
	svc *computations.Service
}

func (s userKeys) RegisterKey(ctx context.Context, q *computationsv1.RegisterKeyRequest) (*computationsv1.RegisterKeyResponse, error) {
	public, err := publicKey("public_key", q.GetPublicKey())
	if err != nil {
		return nil, err
	}
	at, err := moment("at", q.GetAt())
	if err != nil {
		return nil, err
	}
	k, err := s.svc.RegisterKey(ctx, who(ctx), computations.RegisterKey{
		Name: q.GetName(), Public: public, At: at, Signature: q.GetSignature(), Replaces: computations.ID(q.GetReplacesKeyId()),
	})
	if err != nil {
		return nil, err
	}
	return &computationsv1.RegisterKeyResponse{Key: userKey(k)}, nil
}

func (s userKeys) ListKeys(ctx context.Context, _ *computationsv1.ListKeysRequest) (*computationsv1.ListKeysResponse, error) {
	list, err := s.svc.Keys(ctx, who(ctx))
	return &computationsv1.ListKeysResponse{Keys: each(list, userKey)}, err
}

func (s userKeys) RevokeKey(ctx context.Context, q *computationsv1.RevokeKeyRequest) (*computationsv1.RevokeKeyResponse, error) {
	return &computationsv1.RevokeKeyResponse{}, s.svc.RevokeKey(ctx, who(ctx), computations.ID(q.GetKeyId()))
}

func userKey(k computations.Key) *computationsv1.Key {
	return &computationsv1.Key{
		Id: string(k.ID), Name: k.Name, PublicKey: k.Public.SPKI(), Fingerprint: k.Public.Fingerprint(),
		Created: stamp(k.Created), Revoked: stamp(k.Revoked), ReplacedBy: string(k.ReplacedBy),
	}
}

// publicKey is the key of a field.
func publicKey(field string, spki []byte) (keys.Public, error) {
	if len(spki) == 0 {
		return keys.Public{}, invalid(field, "is missing")
	}
	k, err := keys.ParsePublic(spki)
	if err != nil {
		return keys.Public{}, invalid(field, "%v", err)
	}
	return k, nil
}
