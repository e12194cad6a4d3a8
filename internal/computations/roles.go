package computations

// Role is a member's in a workspace.
type Role string

// The roles of members. An administrator settles members and settings; a manager
// also sees and cancels everyone's computations; a member sees those with a part
// for them, and makes own ones.
const (
	RoleAdministrator Role = "administrator"
	RoleManager       Role = "manager"
	RoleMember        Role = "member"
)

// Roles lists them in the order in which texts show them.
func Roles() []Role { return []Role{RoleAdministrator, RoleManager, RoleMember} }

// Part is a user's in one computation. Creator comes with creating it; the last
// three are also roles of the manifest.
type Part string

// The parts.
const (
	PartCreator   Part = "creator"
	PartEditor    Part = "editor"
	PartRunner    Part = "runner"
	PartViewer    Part = "viewer"
	PartDataset   Part = "dataset-provider"
	PartAlgorithm Part = "algorithm-provider"
	PartConsumer  Part = "consumer"
)

// Parts lists them in the order in which texts show them.
func Parts() []Part {
	return []Part{PartCreator, PartEditor, PartRunner, PartViewer, PartDataset, PartAlgorithm, PartConsumer}
}
