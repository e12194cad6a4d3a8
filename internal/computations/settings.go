package computations

import (
	"context"
	"slices"
	"strconv"
)

// Names of settings, and the values of "sign-up".
const (
	settingSignUp         = "sign-up"
	settingInvitationDays = "invitation-days"

	signUpInvitation = "invitation"
	signUpOIDC       = "oidc"
)

// settings are all that there are, with what counts where nothing was set.
var settings = map[string]string{
	settingSignUp:         signUpInvitation,
	settingInvitationDays: "7",
}

func setting(r Reader, name string) (string, error) {
	value, err := r.Setting(name)
	if err == nil && value == "" {
		value = settings[name]
	}
	return value, err
}

// Settings are the service's, by name.
func (s *Service) Settings(ctx context.Context, who Identity) (map[string]string, error) {
	return view(ctx, s, func(r Reader) (map[string]string, error) {
		if _, err := s.onService(r, who, ServiceSettings); err != nil {
			return nil, err
		}
		all := map[string]string{}
		for name := range settings {
			value, err := setting(r, name)
			if err != nil {
				return nil, err
			}
			all[name] = value
		}
		return all, nil
	})
}

// SetSetting changes one of them.
func (s *Service) SetSetting(ctx context.Context, who Identity, name, value string) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.inPerson(w, who, ServiceSettings)
		if err != nil {
			return err
		}
		switch name {
		case settingSignUp:
			if accepted := []string{signUpInvitation, signUpOIDC}; !slices.Contains(accepted, value) {
				return invalid(name, "is %q; expected one of %q", value, accepted)
			}
		case settingInvitationDays:
			most := int(maxInvitationTTL.Hours() / 24)
			if n, err := strconv.Atoi(value); err != nil || n < 1 || n > most || strconv.Itoa(n) != value {
				return invalid(name, "is %q; expected a number of days from 1 to %d", value, most)
			}
		default:
			return invalid("name", "%q is no setting; there are %q and %q", name, settingInvitationDays, settingSignUp)
		}
		if err := w.PutSetting(name, value); err != nil {
			return err
		}
		return s.did(w, &x, ServiceSettings, "", "name", name, "value", value)
	})
}
