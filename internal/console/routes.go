package console

import "net/http"

// door is who may come to a route's function at all; what they may do there the
// use cases decide.
type door int

const (
	// open: anybody; links with a secret are their own key.
	open door = iota
	// signedIn: people with a session.
	signedIn
)

// Sizes of bodies, in bytes.
const (
	smallBody = 64 << 10
	// largeBody takes a computation's export, a receipt or an approval.
	largeBody = 4 << 20
)

// route is one address of the console.
type route struct {
	// pattern is net/http's, with its method.
	pattern string
	door    door
	// body is the most bytes that are read of a POST; zero means smallBody.
	body int64
	// stream is true of an answer that goes on: it is told in plain status codes.
	stream bool
	serve  func(*call) error
}

// routes is every address but those of style, script and fonts.
func (c *Console) routes() []route {
	return []route{
		// Coming in.
		{pattern: "GET /sign-in", serve: showSignIn},
		{pattern: "POST /sign-in", serve: doSignIn},
		{pattern: "GET /sign-in/external", serve: beginExternal},
		{pattern: "GET /sign-in/external/back", serve: finishExternal},
		{pattern: "POST /sign-out", serve: doSignOut},
		{pattern: "GET /link/{secret}", serve: showLink},
		{pattern: "POST /link/{secret}", serve: redeemLink},
		{pattern: "GET /invitation/{secret}", serve: showInvitation},
		{pattern: "POST /invitation/{secret}/join", serve: joinInvitation},
		{pattern: "POST /invitation/{secret}/accept", door: signedIn, serve: acceptInvitation},
		{pattern: "GET /invitation/{secret}/decline", serve: askDecline},
		{pattern: "POST /invitation/{secret}/decline", serve: declineInvitation},

		// One's own.
		{pattern: "GET /{$}", door: signedIn, serve: showHome},
		{pattern: "POST /invitations/{invitation}/accept", door: signedIn, serve: acceptMine},
		{pattern: "GET /invitations/{invitation}/decline", door: signedIn, serve: askDeclineMine},
		{pattern: "POST /invitations/{invitation}/decline", door: signedIn, serve: declineMine},
		{pattern: "GET /keys", door: signedIn, serve: showKeys},
		{pattern: "GET /keys/{key}/revoke", door: signedIn, serve: askRevokeKey},
		{pattern: "POST /keys/{key}/revoke", door: signedIn, serve: revokeKey},
		{pattern: "GET /settings", door: signedIn, serve: showSettings},
		{pattern: "POST /settings/name", door: signedIn, serve: setName},
		{pattern: "POST /settings/password", door: signedIn, serve: setPassword},
		{pattern: "POST /settings/tokens", door: signedIn, serve: createToken},
		{pattern: "GET /settings/credentials/{credential}/revoke", door: signedIn, serve: askRevokeCredential},
		{pattern: "POST /settings/credentials/{credential}/revoke", door: signedIn, serve: revokeCredential},

		// Workspaces.
		{pattern: "GET /workspaces/new", door: signedIn, serve: newWorkspace},
		{pattern: "POST /workspaces/new", door: signedIn, serve: createWorkspace},
		{pattern: "GET /w/{workspace}", door: signedIn, serve: showDashboard},
		{pattern: "GET /w/{workspace}/members", door: signedIn, serve: showMembers},
		{pattern: "GET /w/{workspace}/members/{user}/role", door: signedIn, serve: askRole},
		{pattern: "POST /w/{workspace}/members/{user}/role", door: signedIn, serve: setRole},
		{pattern: "GET /w/{workspace}/members/{user}/remove", door: signedIn, serve: askRemoveMember},
		{pattern: "POST /w/{workspace}/members/{user}/remove", door: signedIn, serve: removeMember},
		{pattern: "GET /w/{workspace}/invitations/new", door: signedIn, serve: newInvitation},
		{pattern: "POST /w/{workspace}/invitations/new", door: signedIn, serve: invite},
		{pattern: "GET /w/{workspace}/invitations/{invitation}/resend", door: signedIn, serve: askResend},
		{pattern: "POST /w/{workspace}/invitations/{invitation}/resend", door: signedIn, serve: resendInvitation},
		{pattern: "GET /w/{workspace}/invitations/{invitation}/withdraw", door: signedIn, serve: askWithdraw},
		{pattern: "POST /w/{workspace}/invitations/{invitation}/withdraw", door: signedIn, serve: withdraw},
		{pattern: "GET /w/{workspace}/audit", door: signedIn, serve: showAudit},
		{pattern: "GET /w/{workspace}/settings", door: signedIn, serve: showWorkspaceSettings},
		{pattern: "POST /w/{workspace}/settings/name", door: signedIn, serve: renameWorkspace},
		{pattern: "POST /w/{workspace}/settings/retention", door: signedIn, serve: setRetention},

		// Assets.
		{pattern: "GET /w/{workspace}/assets", door: signedIn, serve: showAssets},
		{pattern: "GET /w/{workspace}/assets/new", door: signedIn, serve: newAsset},
		{pattern: "POST /w/{workspace}/assets/new", door: signedIn, serve: createAsset},
		{pattern: "GET /a/{asset}", door: signedIn, serve: showAsset},
		{pattern: "POST /a/{asset}", door: signedIn, serve: editAsset},
		{pattern: "GET /a/{asset}/retire", door: signedIn, serve: askRetireAsset},
		{pattern: "POST /a/{asset}/retire", door: signedIn, serve: retireAsset},

		// Computations.
		{pattern: "GET /w/{workspace}/computations", door: signedIn, serve: showComputations},
		{pattern: "GET /w/{workspace}/computations/new", door: signedIn, serve: newComputation},
		{pattern: "POST /w/{workspace}/computations/new", door: signedIn, serve: createComputation},
		{pattern: "GET /w/{workspace}/computations/import", door: signedIn, serve: newImport},
		{pattern: "POST /w/{workspace}/computations/import", door: signedIn, body: largeBody, serve: importComputation},
		{pattern: "GET /c/{computation}", door: signedIn, serve: showComputation},
		{pattern: "GET /c/{computation}/edit", door: signedIn, serve: editComputation},
		{pattern: "POST /c/{computation}/edit", door: signedIn, serve: saveComputation},
		{pattern: "GET /c/{computation}/people", door: signedIn, serve: showPeople},
		{pattern: "POST /c/{computation}/people/{user}", door: signedIn, serve: setParts},
		{pattern: "POST /c/{computation}/supply", door: signedIn, serve: supply},
		{pattern: "GET /c/{computation}/freeze", door: signedIn, serve: askFreeze},
		{pattern: "POST /c/{computation}/freeze", door: signedIn, serve: freeze},
		{pattern: "GET /c/{computation}/approve", door: signedIn, serve: showApprove},
		{pattern: "POST /c/{computation}/approve", door: signedIn, serve: approve},
		{pattern: "GET /c/{computation}/check", door: signedIn, serve: showCheck},
		{pattern: "POST /c/{computation}/run", door: signedIn, serve: startRun},
		{pattern: "GET /c/{computation}/runs", door: signedIn, serve: showRuns},
		{pattern: "POST /c/{computation}/copy", door: signedIn, serve: copyComputation},
		{pattern: "GET /c/{computation}/manifest.json", door: signedIn, serve: downloadManifest},
		{pattern: "GET /c/{computation}/export.json", door: signedIn, serve: exportComputation},
		{pattern: "GET /c/{computation}/archive", door: signedIn, serve: askArchive},
		{pattern: "POST /c/{computation}/archive", door: signedIn, serve: archive},
		{pattern: "POST /c/{computation}/restore", door: signedIn, serve: restore},

		// Runs.
		{pattern: "GET /r/{run}", door: signedIn, serve: showRun},
		{pattern: "GET /r/{run}/stream", door: signedIn, stream: true, serve: streamRun},
		{pattern: "GET /r/{run}/stop", door: signedIn, serve: askStop},
		{pattern: "POST /r/{run}/stop", door: signedIn, serve: stopRun},
		{pattern: "GET /r/{run}/receipt.json", door: signedIn, serve: downloadReceipt},
		{pattern: "POST /r/{run}/receipt", door: signedIn, body: largeBody, serve: submitReceipt},

		// The service as a whole: operators.
		{pattern: "GET /hosts", door: signedIn, serve: showHosts},
		{pattern: "GET /hosts/enrol", door: signedIn, serve: newHost},
		{pattern: "POST /hosts/enrol", door: signedIn, serve: enrolHost},
		{pattern: "GET /hosts/tokens/{token}/withdraw", door: signedIn, serve: askWithdrawToken},
		{pattern: "POST /hosts/tokens/{token}/withdraw", door: signedIn, serve: withdrawToken},
		{pattern: "GET /hosts/{host}", door: signedIn, serve: showHost},
		{pattern: "POST /hosts/{host}/cordon", door: signedIn, serve: cordonHost},
		{pattern: "POST /hosts/{host}/uncordon", door: signedIn, serve: uncordonHost},
		{pattern: "GET /hosts/{host}/drain", door: signedIn, serve: askDrain},
		{pattern: "POST /hosts/{host}/drain", door: signedIn, serve: drainHost},
		{pattern: "POST /hosts/{host}/undrain", door: signedIn, serve: undrainHost},
		{pattern: "GET /hosts/{host}/revoke", door: signedIn, serve: askRevokeHost},
		{pattern: "POST /hosts/{host}/revoke", door: signedIn, serve: revokeHost},
		{pattern: "GET /users", door: signedIn, serve: showUsers},
		{pattern: "GET /users/new", door: signedIn, serve: newUser},
		{pattern: "POST /users/new", door: signedIn, serve: createUser},
		{pattern: "GET /users/{user}/reset", door: signedIn, serve: askReset},
		{pattern: "POST /users/{user}/reset", door: signedIn, serve: resetPassword},
		{pattern: "GET /users/{user}/disable", door: signedIn, serve: askDisable},
		{pattern: "POST /users/{user}/disable", door: signedIn, serve: disableUser},
		{pattern: "POST /users/{user}/enable", door: signedIn, serve: enableUser},
		{pattern: "GET /audit", door: signedIn, serve: showServiceAudit},
		{pattern: "GET /service", door: signedIn, serve: showService},
		{pattern: "POST /service", door: signedIn, serve: setService},
	}
}

// mux serves the routes and the static files.
func (c *Console) mux() http.Handler {
	m := http.NewServeMux()
	for _, r := range c.routes() {
		m.Handle(r.pattern, c.serve(r))
	}
	m.HandleFunc("GET /static/{name}", c.serveAsset)
	m.Handle("/", c.serve(route{pattern: "/", serve: func(q *call) error { return errNoPage }}))
	return m
}
