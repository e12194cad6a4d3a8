package userapi

import (
	"context"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
)

type accounts struct {
	computationsv1.UnimplementedAccountsServiceServer
	api *API
	svc *computations.Service
}

func (s accounts) GetService(context.Context, *computationsv1.GetServiceRequest) (*computationsv1.GetServiceResponse, error) {
	return &computationsv1.GetServiceResponse{Name: s.svc.Name(), Version: s.api.c.Version}, nil
}

func (s accounts) SignIn(ctx context.Context, q *computationsv1.SignInRequest) (*computationsv1.SignInResponse, error) {
	session, err := s.svc.SignIn(ctx, q.GetEmail(), q.GetPassword(), q.GetClient(), address(ctx))
	return &computationsv1.SignInResponse{Session: session}, err
}

func (s accounts) GetLink(ctx context.Context, q *computationsv1.GetLinkRequest) (*computationsv1.GetLinkResponse, error) {
	u, err := s.svc.LinkInfo(ctx, q.GetSecret())
	return &computationsv1.GetLinkResponse{Email: u.Email, Name: u.Name}, err
}

func (s accounts) RedeemLink(ctx context.Context, q *computationsv1.RedeemLinkRequest) (*computationsv1.RedeemLinkResponse, error) {
	session, err := s.svc.RedeemLink(ctx, q.GetSecret(), q.GetName(), q.GetEmail(), q.GetPassword(), q.GetClient())
	return &computationsv1.RedeemLinkResponse{Session: session}, err
}

func (s accounts) SignOut(ctx context.Context, _ *computationsv1.SignOutRequest) (*computationsv1.SignOutResponse, error) {
	return &computationsv1.SignOutResponse{}, s.svc.SignOut(ctx, who(ctx))
}

func (s accounts) GetAccount(ctx context.Context, _ *computationsv1.GetAccountRequest) (*computationsv1.GetAccountResponse, error) {
	id := who(ctx)
	return &computationsv1.GetAccountResponse{
		UserId: string(id.User), Email: id.Email, Name: id.Name, Operator: id.Operator,
		CredentialId: string(id.Credential), CredentialKind: string(id.Kind),
	}, nil
}

func (s accounts) ChangePassword(ctx context.Context, q *computationsv1.ChangePasswordRequest) (*computationsv1.ChangePasswordResponse, error) {
	return &computationsv1.ChangePasswordResponse{}, s.svc.ChangePassword(ctx, who(ctx), q.GetOldPassword(), q.GetNewPassword())
}

func (s accounts) SetName(ctx context.Context, q *computationsv1.SetNameRequest) (*computationsv1.SetNameResponse, error) {
	return &computationsv1.SetNameResponse{}, s.svc.SetName(ctx, who(ctx), q.GetName())
}

func (s accounts) CreateToken(ctx context.Context, q *computationsv1.CreateTokenRequest) (*computationsv1.CreateTokenResponse, error) {
	ttl, err := length("ttl", q.GetTtl())
	if err != nil {
		return nil, err
	}
	secret, c, err := s.svc.CreateToken(ctx, who(ctx), q.GetName(), ttl)
	return &computationsv1.CreateTokenResponse{Secret: secret, Credential: credential(ctx)(c)}, err
}

func (s accounts) ListCredentials(ctx context.Context, _ *computationsv1.ListCredentialsRequest) (*computationsv1.ListCredentialsResponse, error) {
	list, err := s.svc.Credentials(ctx, who(ctx))
	return &computationsv1.ListCredentialsResponse{Credentials: each(list, credential(ctx))}, err
}

func (s accounts) RevokeCredential(ctx context.Context, q *computationsv1.RevokeCredentialRequest) (*computationsv1.RevokeCredentialResponse, error) {
	return &computationsv1.RevokeCredentialResponse{}, s.svc.RevokeCredential(ctx, who(ctx), computations.ID(q.GetCredentialId()))
}

func (s accounts) ListUsers(ctx context.Context, q *computationsv1.ListUsersRequest) (*computationsv1.ListUsersResponse, error) {
	c, err := cursorOf(q.GetPageSize(), q.GetPageToken())
	if err != nil {
		return nil, err
	}
	p, err := c.page()
	if err != nil {
		return nil, err
	}
	list, err := s.svc.Users(ctx, who(ctx), p)
	if err != nil {
		return nil, err
	}
	var r computationsv1.ListUsersResponse
	r.Users, r.NextPageToken = cut(c, list, func(u computations.User) string { return string(u.ID) }, user)
	return &r, nil
}

func (s accounts) CreateUser(ctx context.Context, q *computationsv1.CreateUserRequest) (*computationsv1.CreateUserResponse, error) {
	u, link, err := s.svc.CreateUser(ctx, who(ctx), q.GetEmail(), q.GetName(), q.GetOperator())
	return &computationsv1.CreateUserResponse{User: user(u), Link: link}, err
}

func (s accounts) SetUserDisabled(ctx context.Context, q *computationsv1.SetUserDisabledRequest) (*computationsv1.SetUserDisabledResponse, error) {
	return &computationsv1.SetUserDisabledResponse{}, s.svc.SetUserDisabled(ctx, who(ctx), computations.ID(q.GetUserId()), q.GetDisabled())
}

func (s accounts) ResetPassword(ctx context.Context, q *computationsv1.ResetPasswordRequest) (*computationsv1.ResetPasswordResponse, error) {
	link, err := s.svc.ResetPassword(ctx, who(ctx), computations.ID(q.GetUserId()))
	return &computationsv1.ResetPasswordResponse{Link: link}, err
}

func (s accounts) GetSettings(ctx context.Context, _ *computationsv1.GetSettingsRequest) (*computationsv1.GetSettingsResponse, error) {
	all, err := s.svc.Settings(ctx, who(ctx))
	return &computationsv1.GetSettingsResponse{Settings: all}, err
}

func (s accounts) SetSetting(ctx context.Context, q *computationsv1.SetSettingRequest) (*computationsv1.SetSettingResponse, error) {
	return &computationsv1.SetSettingResponse{}, s.svc.SetSetting(ctx, who(ctx), q.GetName(), q.GetValue())
}

func user(u computations.User) *computationsv1.User {
	return &computationsv1.User{
		Id: string(u.ID), Email: u.Email, EmailVerified: u.EmailVerified, Name: u.Name, Operator: u.Operator, Disabled: u.Disabled,
		Issuer: u.Issuer, Created: stamp(u.Created),
	}
}

func credential(ctx context.Context) func(computations.Credential) *computationsv1.Credential {
	own := who(ctx).Credential
	return func(c computations.Credential) *computationsv1.Credential {
		return &computationsv1.Credential{
			Id: string(c.ID), Kind: string(c.Kind), Name: c.Name, Client: c.Client,
			Created: stamp(c.Created), Expires: stamp(c.Expires), Used: stamp(c.Used), Current: c.ID == own,
		}
	}
}
