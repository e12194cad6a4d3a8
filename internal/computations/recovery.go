package computations

import (
	"context"
	"errors"
)

// OperatorLink returns an address with which the operator of that email sets a
// new password. It is for whoever holds the database, who could write anything
// into it: nobody's credential is asked for, and the audit log says that it was
// done on the machine itself. The password that there is holds until then.
func (s *Service) OperatorLink(ctx context.Context, email string) (link string, err error) {
	email = foldEmail(email)
	return update(ctx, s, func(w Writer) (string, error) {
		u, err := w.UserByEmail(email)
		switch {
		case errors.Is(err, ErrNoRow) || err == nil && !u.Operator:
			return "", &Error{Kind: NotFound, Field: "email", Message: "there is no operator with the address " + plain(email, maxEmail), Hint: "an operator can reset the passwords of all others"}
		case err != nil:
			return "", err
		case u.Disabled:
			return "", &Error{Kind: Conflict, Field: "email", Message: "that account is disabled"}
		}
		link, err := s.newLink(w, u.ID)
		if err != nil {
			return "", err
		}
		return link, s.note(w, "", "", actionOperatorLink, u.ID, "email", u.Email)
	})
}
