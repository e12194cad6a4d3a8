package agent

import (
	"testing"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Every state with every trigger: what is not listed is an error and leaves the
// state.
func TestTransitions(t *testing.T) {
	states := []State{AwaitingInputs, Running, ResultReady, Released, Failed, Stopped}
	triggers := []trigger{inputsComplete, runSucceeded, runFailed, resultTaken, stopAsked}
	legal := map[State]map[trigger]State{
		AwaitingInputs: {inputsComplete: Running, runFailed: Failed, stopAsked: Stopped},
		Running:        {runSucceeded: ResultReady, runFailed: Failed, stopAsked: Stopped},
		ResultReady:    {resultTaken: Released, runFailed: Failed, stopAsked: Stopped},
		Released:       {stopAsked: Stopped},
		Failed:         {stopAsked: Stopped},
	}
	for _, s := range append(states, "nonsense") {
		for _, tr := range append(triggers, "nonsense") {
			got, err := next(s, tr)
			want, ok := legal[s][tr]
			if ok != (err == nil) || ok && got != want || !ok && got != s {
				t.Errorf("%s, %s: got %s %v, want %q", s, tr, got, err, want)
			}
		}
	}
}

func TestAuthorise(t *testing.T) {
	mk := func() keys.Public {
		k, err := keys.Generate(keys.Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		return k.Public()
	}
	algo, data, other, consumer, approver, stranger, both := mk(), mk(), mk(), mk(), mk(), mk(), mk()
	m := &manifest.Manifest{
		Algorithm: manifest.Algorithm{Provider: algo, Files: []manifest.File{{Name: "f"}}},
		Datasets:  []manifest.Dataset{{Name: "d", Provider: data}, {Name: "o", Provider: other}, {Name: "b", Provider: both}},
		Consumers: []keys.Public{consumer, both},
		Approvals: []keys.Public{approver},
	}
	const (
		state   = agentv1.AgentService_State_FullMethodName
		status  = agentv1.AgentService_UploadStatus_FullMethodName
		provide = agentv1.AgentService_Provide_FullMethodName
		upload  = agentv1.AgentService_Upload_FullMethodName
		result  = agentv1.AgentService_Result_FullMethodName
		confirm = agentv1.AgentService_ConfirmResult_FullMethodName
		receipt = agentv1.AgentService_Receipt_FullMethodName
		events  = agentv1.AgentService_Events_FullMethodName
		logs    = agentv1.AgentService_Logs_FullMethodName
	)
	for _, tt := range []struct {
		name   string
		key    keys.Public
		role   manifest.Role
		method string
		input  *inputRef
		want   rpcerr.Reason
	}{
		{"state for the algorithm's provider", algo, manifest.AlgorithmProvider, state, nil, ""},
		{"state for a dataset's provider", data, manifest.DatasetProvider, state, nil, ""},
		{"state for a consumer", consumer, manifest.Consumer, state, nil, ""},
		{"state for an approver", approver, manifest.Approver, state, nil, ""},
		{"events for an approver", approver, manifest.Approver, events, nil, ""},
		{"logs for a consumer", consumer, manifest.Consumer, logs, nil, ""},
		{"state for a stranger", stranger, manifest.Consumer, state, nil, rpcerr.Signature},
		{"state without a key", keys.Public{}, manifest.Consumer, state, nil, rpcerr.Signature},
		{"state in no role", consumer, "", state, nil, rpcerr.RoleNotGranted},
		{"state in a made-up role", consumer, "owner", state, nil, rpcerr.RoleNotGranted},
		{"state in another's role", consumer, manifest.DatasetProvider, state, nil, rpcerr.RoleNotGranted},

		{"own dataset", data, manifest.DatasetProvider, upload, &inputRef{datasetInput, "d"}, ""},
		{"own dataset, not named yet", data, manifest.DatasetProvider, upload, nil, ""},
		{"status of the own dataset", data, manifest.DatasetProvider, status, &inputRef{datasetInput, "d"}, ""},
		{"another's dataset", data, manifest.DatasetProvider, upload, &inputRef{datasetInput, "o"}, rpcerr.NotProvider},
		{"status of another's dataset", data, manifest.DatasetProvider, status, &inputRef{datasetInput, "o"}, rpcerr.NotProvider},
		{"no such dataset", data, manifest.DatasetProvider, upload, &inputRef{datasetInput, "x"}, rpcerr.InputUnknown},
		{"no such kind", data, manifest.DatasetProvider, upload, &inputRef{"x", "d"}, rpcerr.InputUnknown},
		{"the algorithm", algo, manifest.AlgorithmProvider, upload, &inputRef{kind: algorithmInput}, ""},
		{"a file beside the algorithm", algo, manifest.AlgorithmProvider, upload, &inputRef{fileInput, "f"}, ""},
		{"no such file", algo, manifest.AlgorithmProvider, upload, &inputRef{fileInput, "x"}, rpcerr.InputUnknown},
		{"a file by a dataset's provider", data, manifest.DatasetProvider, upload, &inputRef{fileInput, "f"}, rpcerr.RoleNotAllowed},
		{"a key for the own dataset", data, manifest.DatasetProvider, provide, &inputRef{datasetInput, "d"}, ""},
		{"a key for another's dataset", data, manifest.DatasetProvider, provide, &inputRef{datasetInput, "o"}, rpcerr.NotProvider},
		{"a key by the algorithm's provider", algo, manifest.AlgorithmProvider, provide, &inputRef{datasetInput, "d"}, rpcerr.RoleNotAllowed},
		{"a key by a consumer", consumer, manifest.Consumer, provide, nil, rpcerr.RoleNotAllowed},
		{"the algorithm as dataset", algo, manifest.AlgorithmProvider, upload, &inputRef{datasetInput, "d"}, rpcerr.RoleNotAllowed},
		{"dataset as the algorithm", data, manifest.DatasetProvider, upload, &inputRef{kind: algorithmInput}, rpcerr.RoleNotAllowed},
		{"upload by a consumer", consumer, manifest.Consumer, upload, nil, rpcerr.RoleNotAllowed},
		{"upload by an approver", approver, manifest.Approver, upload, &inputRef{datasetInput, "d"}, rpcerr.RoleNotAllowed},
		{"upload by a consumer in its other role", both, manifest.DatasetProvider, upload, &inputRef{datasetInput, "b"}, ""},
		{"own dataset in the wrong one of two roles", both, manifest.Consumer, upload, &inputRef{datasetInput, "b"}, rpcerr.RoleNotAllowed},

		{"result for a consumer", consumer, manifest.Consumer, result, nil, ""},
		{"confirmation by a consumer", consumer, manifest.Consumer, confirm, nil, ""},
		{"receipt for a consumer", consumer, manifest.Consumer, receipt, nil, ""},
		{"receipt for a provider", data, manifest.DatasetProvider, receipt, nil, rpcerr.RoleNotAllowed},
		{"receipt for the algorithm's provider", algo, manifest.AlgorithmProvider, receipt, nil, rpcerr.RoleNotAllowed},
		{"receipt for an approver", approver, manifest.Approver, receipt, nil, rpcerr.RoleNotAllowed},
		{"receipt for a consumer in its other role", both, manifest.DatasetProvider, receipt, nil, rpcerr.RoleNotAllowed},
		{"result for a provider", data, manifest.DatasetProvider, result, nil, rpcerr.RoleNotAllowed},
		{"result for a provider that says consumer", data, manifest.Consumer, result, nil, rpcerr.RoleNotGranted},
		{"result for the algorithm's provider", algo, manifest.AlgorithmProvider, result, nil, rpcerr.RoleNotAllowed},
		{"confirmation by an approver", approver, manifest.Approver, confirm, nil, rpcerr.RoleNotAllowed},
		{"result for a consumer in its other role", both, manifest.DatasetProvider, result, nil, rpcerr.RoleNotAllowed},

		{"a method that is not there", consumer, manifest.Consumer, "/cocos.agent.v1.AgentService/Other", nil, rpcerr.RoleNotAllowed},
		{"no method", consumer, manifest.Consumer, "", nil, rpcerr.RoleNotAllowed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := callauth.Caller{Key: tt.key, Role: tt.role}
			got := authorise(m, tt.method, c, tt.input)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if err := refusal(got, m, c, tt.input); (err == nil) != (tt.want == "") {
				t.Errorf("refusal: %v", err)
			}
		})
	}
}

// A method that is added to the protocol is closed until it is in the table.
func TestEveryMethodIsInTheTable(t *testing.T) {
	d := agentv1.AgentService_ServiceDesc
	n := 0
	for _, m := range d.Methods {
		n++
		if len(callRoles["/"+d.ServiceName+"/"+m.MethodName]) == 0 {
			t.Errorf("%s has no roles", m.MethodName)
		}
	}
	for _, s := range d.Streams {
		n++
		if len(callRoles["/"+d.ServiceName+"/"+s.StreamName]) == 0 {
			t.Errorf("%s has no roles", s.StreamName)
		}
	}
	if n != len(callRoles) {
		t.Errorf("the table has %d methods, the protocol %d", len(callRoles), n)
	}
}
