package kubelet

const (
	inCluster  = "a redirect stays in the cluster, whatever port or scheme it names"
	parser     = "Envoy's parser refuses the response"
	limits     = "Envoy's limits for the headers of a response, which a cluster may raise"
	refused    = "refused with a message that says how to write it"
	asWritten  = "a path is sent as it is written, which Go's client does not do"
	wholeBody  = "Envoy waits for the whole body, and the kubelet for 10 KiB of it"
	proxysName = "refused with a message: the proxy's own header"
)

// differsByDesign are rows in which our checks differ from the kubelet's, with the reason. A row that no longer differs
// fails the test.
var differsByDesign = map[string]string{
	"redirect to http://127.0.0.1:OTHER/there": inCluster,
	"redirect to http://127.0.0.1:/there":      inCluster,
	"redirect to http://127.0.0.1/there":       inCluster,
	"redirect to http://127.0.0.1:99999/there": inCluster,
	"redirect to https://127.0.0.1:OWN/there":  inCluster,

	"204 with a body":       parser,
	"a header with a space": parser,
	"chunks and a length":   parser,
	"the same length twice": parser,
	"150 headers":           limits,
	"headers of 100 KiB":    limits,
	"a body without end":    wholeBody,
	"Connection":            proxysName,

	"path /x y":                   refused,
	"path /\u00e4":                refused,
	"path /x?y=a b":               refused,
	"path x:y":                    refused,
	"path http://other.example/x": refused,
	"path //x":                    asWritten,
	"path /%zz":                   asWritten,
	"path /x\"y":                  asWritten,
	"path /x|y":                   asWritten,
	"path /x^y":                   asWritten,
	"path /{x}":                   asWritten,
}

// grpcDiffersByDesign is the same for gRPC.
var grpcDiffersByDesign = map[string]string{
	"reset": "a check is sent once more if its connection is reset, as that may be an old one",
}
