package agent

import (
	"slices"

	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/manifest"
)

// inputRef names an input of the manifest.
type inputRef struct {
	kind inputKind
	name string // of a dataset or file
}

type inputKind string

const (
	algorithmInput inputKind = "algorithm"
	datasetInput   inputKind = "dataset"
	fileInput      inputKind = "file" // beside the algorithm
)

func (r inputRef) String() string {
	if r.kind == algorithmInput {
		return "algorithm"
	}
	return string(r.kind) + " " + r.name
}

// callRoles says in which roles a method can be called. What is not here can't.
var callRoles = map[string][]manifest.Role{
	agentv1.AgentService_State_FullMethodName:         manifest.Roles(),
	agentv1.AgentService_UploadStatus_FullMethodName:  {manifest.AlgorithmProvider, manifest.DatasetProvider},
	agentv1.AgentService_Upload_FullMethodName:        {manifest.AlgorithmProvider, manifest.DatasetProvider},
	agentv1.AgentService_Provide_FullMethodName:       {manifest.DatasetProvider},
	agentv1.AgentService_Result_FullMethodName:        {manifest.Consumer},
	agentv1.AgentService_ConfirmResult_FullMethodName: {manifest.Consumer},
	agentv1.AgentService_Receipt_FullMethodName:       {manifest.Consumer},
	agentv1.AgentService_Events_FullMethodName:        manifest.Roles(),
	agentv1.AgentService_Logs_FullMethodName:          manifest.Roles(),
}

// authorise says why the manifest does not let the caller make this call, or
// "" if it does. input is nil where a call has none, or it is not known yet.
func authorise(m *manifest.Manifest, method string, c callauth.Caller, input *inputRef) rpcerr.Reason {
	switch {
	case len(m.RolesOf(c.Key)) == 0:
		return rpcerr.Signature
	case !m.HasRole(c.Key, c.Role):
		return rpcerr.RoleNotGranted
	case !slices.Contains(callRoles[method], c.Role):
		return rpcerr.RoleNotAllowed
	case input == nil:
		return ""
	}
	switch input.kind {
	case algorithmInput, fileInput:
		if c.Role != manifest.AlgorithmProvider {
			return rpcerr.RoleNotAllowed
		}
		if _, ok := m.Algorithm.File(input.name); !ok && input.kind == fileInput {
			return rpcerr.InputUnknown
		}
		return "" // HasRole compared the key
	case datasetInput:
		if c.Role != manifest.DatasetProvider {
			return rpcerr.RoleNotAllowed
		}
		d, ok := m.Dataset(input.name)
		if !ok {
			return rpcerr.InputUnknown
		}
		if !d.Provider.Equal(c.Key) {
			return rpcerr.NotProvider
		}
		return ""
	}
	return rpcerr.InputUnknown
}

// refusal puts a reason of authorise into words.
func refusal(reason rpcerr.Reason, m *manifest.Manifest, c callauth.Caller, input *inputRef) error {
	switch reason {
	case "":
		return nil
	case rpcerr.RoleNotGranted:
		return rpcerr.New(codes.PermissionDenied, rpcerr.Detail{
			Reason: reason, Field: callauth.RoleHeader, Hint: "use a role that the manifest gives to this key",
		}, "the manifest gives this key the roles %q, not %q", m.RolesOf(c.Key), c.Role)
	case rpcerr.RoleNotAllowed:
		return rpcerr.New(codes.PermissionDenied, rpcerr.Detail{
			Reason: reason, Field: callauth.RoleHeader, Hint: "call in the role that it is for",
		}, "the role %q may not make this call", c.Role)
	case rpcerr.NotProvider:
		return rpcerr.New(codes.PermissionDenied, rpcerr.Detail{
			Reason: reason, Field: "input.name", Hint: "its provider must send it",
		}, "the manifest names another provider for the %s", input)
	case rpcerr.InputUnknown:
		return rpcerr.New(codes.NotFound, rpcerr.Detail{
			Reason: reason, Field: "input", Hint: "use the manifest's name of the dataset or file",
		}, "the manifest has no such input")
	}
	return callauth.Stranger()
}
