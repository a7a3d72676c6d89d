package kubelet

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
)

// row is a check of one server. The server answers each request as `answer` says, which returns whether it keeps the
// connection.
type row struct {
	name   string
	get    core.HTTPGetAction
	answer func(c net.Conn, request seen) bool
	// checks is how many are sent, one each 0.2 s. The verdict is a failure if any of them fails. 0 is 1.
	checks int
	// accepts is how many connections are accepted, or 0 for any number.
	accepts int
	// timeout is that of a check that is to run into it. Others have one that is long enough for a busy machine.
	timeout time.Duration
	// unnamed leaves the host to the defaults, which is the Pod's address for the kubelet.
	unnamed bool
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// well answers 200, and says that it closes the connection if the client asks for that, as most servers do.
func well(c net.Conn, request seen) bool {
	if slices.Contains(request.headers["connection"], "close") {
		says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")(c, request)
		return false
	}
	return says(ok)(c, request)
}

// says answers each request with this text. The connection is closed if the text does not tell where it ends.
func says(text string) func(net.Conn, seen) bool {
	return func(c net.Conn, _ seen) bool {
		_, _ = c.Write([]byte(text))
		return strings.Contains(text, "Content-Length: 0\r\n") && strings.HasSuffix(text, "\r\n\r\n")
	}
}

func status(code int) string {
	return fmt.Sprintf("HTTP/1.1 %d Status\r\nContent-Length: 0\r\n\r\n", code)
}

// after waits before it answers.
func after(wait time.Duration, answer func(net.Conn, seen) bool) func(net.Conn, seen) bool {
	return func(c net.Conn, request seen) bool {
		time.Sleep(wait)
		return answer(c, request)
	}
}

// unless answers with a status if a request is not as it should be.
func unless(should func(seen) bool, code int) func(net.Conn, seen) bool {
	return func(c net.Conn, request seen) bool {
		if should(request) {
			return says(ok)(c, request)
		}
		return says(status(code))(c, request)
	}
}

// redirects answers the first request with a redirect, and what follows with 500. So a check passes only if it does not
// follow. OWN and OTHER in a location are the ports of this server and of another one that answers 500, too.
func redirects(code int, locations ...string) func(net.Conn, seen) bool {
	return func(c net.Conn, request seen) bool {
		if request.target != "/" {
			return says(status(500))(c, request)
		}
		text := fmt.Sprintf("HTTP/1.1 %d Status\r\nContent-Length: 0\r\n", code)
		for _, location := range locations {
			_, own, _ := net.SplitHostPort(c.LocalAddr().String())
			location = strings.NewReplacer("OWN", own, "OTHER", otherPort).Replace(location)
			text += "Location: " + location + "\r\n"
		}
		return says(text+"\r\n")(c, request)
	}
}

// chain redirects from /0 to /1 and so on, and answers 200 in the end.
func chain(length int) func(net.Conn, seen) bool {
	return func(c net.Conn, request seen) bool {
		var at int
		_, _ = fmt.Sscanf(request.target, "/%d", &at)
		if at == length {
			return says(ok)(c, request)
		}
		return says(fmt.Sprintf("HTTP/1.1 302 Found\r\nLocation: /%d\r\nContent-Length: 0\r\n\r\n", at+1))(c, request)
	}
}

func reset(c net.Conn, _ seen) bool {
	_ = c.(*net.TCPConn).SetLinger(0)
	return false
}

func path(p string) core.HTTPGetAction { return core.HTTPGetAction{Path: p} }

func headers(pairs ...string) core.HTTPGetAction {
	get := core.HTTPGetAction{Path: "/"}
	for i := 0; i < len(pairs); i += 2 {
		get.HTTPHeaders = append(get.HTTPHeaders, core.HTTPHeader{Name: pairs[i], Value: pairs[i+1]})
	}
	return get
}

// allRows returns the rows but those of the statuses, which need no server of their own.
func allRows() []row {
	var rows []row
	add := func(name string, get core.HTTPGetAction, answer func(net.Conn, seen) bool) {
		rows = append(rows, row{name: name, get: get, answer: answer})
	}
	for _, location := range []string{
		"/there", "there", "../there", "./", "?q=1", "", "#part", "/there#part", "/there?q=1#part", "//", "/",
		"http://127.0.0.1:OWN/there", "http://127.0.0.1:OTHER/there", "http://127.0.0.1:OWN", "http://127.0.0.1:OWN?q",
		"HTTP://127.0.0.1:OWN/there", "//127.0.0.1:OWN/there", "http://127.0.0.1:/there", "http://127.0.0.1/there",
		"http://other.example/there", "//other.example/there", "http://localhost:OWN/there", "http://127.0.0.2:OWN/there",
		"https://127.0.0.1:OWN/there", "ftp://127.0.0.1:OWN/there", "ftp://other.example/there", "mailto:a@example.com",
		"http://u:p@127.0.0.1:OWN/there", "http://u:p@other.example/there", "127.0.0.1:8080/x", "localhost:8080/x",
		"http://", "http:///there", "http:/there", "http:there", "/a b", "/%zz", "/%41", "/\u00e4", "/a\tb", "/a\\b", ":", "::",
		"http://127.0.0.1:port/there", "http://127.0.0.1:99999/there", "http://[::1]:OWN/there", "http://[::1/there",
		"http://127.0.0.1:OWN/a/../there", "javascript:alert(1)", "  /there  ",
	} {
		add("redirect to "+location, path("/"), redirects(302, location))
	}
	for _, code := range []int{300, 301, 303, 304, 305, 306, 307, 308, 309, 399} {
		add(fmt.Sprintf("redirect by %d", code), path("/"), redirects(code, "/there"))
		add(fmt.Sprintf("redirect by %d to another host", code), path("/"), redirects(code, "http://other.example/there"))
	}
	add("redirect without a location", path("/"), redirects(302))
	add("redirect to two locations", path("/"), redirects(302, "http://other.example/there", "/there"))
	add("redirect to two locations, the other first", path("/"), redirects(302, "/there", "http://other.example/there"))
	for _, length := range []int{1, 9, 10, 11} {
		add(fmt.Sprintf("%d redirects", length), path("/0"), chain(length))
	}
	add("redirect with headers", headers("Authorization", "Basic eDp5", "Cookie", "a=b", "X-A", "1"), redirects(302, "/there"))

	slow := func(name, p string, answer func(net.Conn, seen) bool) {
		rows = append(rows, row{name: name, get: path(p), answer: answer, timeout: time.Second})
	}
	slow("slow headers", "/", after(3*time.Second, says(ok)))
	slow("slow body", "/", func(c net.Conn, r seen) bool {
		says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")(c, r)
		return after(3*time.Second, says("b"))(c, r)
	})
	slow("slow redirects", "/0", after(600*time.Millisecond, chain(3)))
	slow("no response", "/", after(3*time.Second, says("")))
	slow("a body without end", "/", func(c net.Conn, r seen) bool {
		says("HTTP/1.1 200 OK\r\n\r\n")(c, r)
		for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
			if _, err := c.Write([]byte(strings.Repeat("x", 4096))); err != nil {
				break
			}
		}
		return false
	})
	add("headers in time", path("/"), after(300*time.Millisecond, says(ok)))
	add("refused connections", path("/"), nil)
	add("reset", path("/"), reset)
	add("closed without a response", path("/"), says(""))

	for name, text := range map[string]string{
		"body":                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
		"body up to the close":    "HTTP/1.1 200 OK\r\n\r\nab",
		"truncated body":          "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab",
		"truncated headers":       "HTTP/1.1 200 OK\r\nContent-Le",
		"body longer than said":   "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc",
		"chunks":                  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
		"chunks without the last": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
		"no chunks":               "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
		"chunks and a length":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nab\r\n0\r\n\r\n",
		"two lengths":             "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
		"the same length twice":   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
		"a length below 0":        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.0":                "HTTP/1.0 200 OK\r\n\r\nab",
		"HTTP/1.0 with a length":  "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab",
		"HTTP/1.2":                "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/2.0":                "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/0.9":                "hello",
		"no reason":               "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
		"no reason and no space":  "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
		"bare line feeds":         "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
		"a reason of bytes":       "HTTP/1.1 200 \xff\r\nContent-Length: 0\r\n\r\n",
		"a header of bytes":       "HTTP/1.1 200 OK\r\nX-A: \xff\r\nContent-Length: 0\r\n\r\n",
		"a header with no colon":  "HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 0\r\n\r\n",
		"a header with a space":   "HTTP/1.1 200 OK\r\nx a: 1\r\nContent-Length: 0\r\n\r\n",
		"a folded header":         "HTTP/1.1 200 OK\r\nx-a: 1\r\n  2\r\nContent-Length: 0\r\n\r\n",
		"100 before 200":          "HTTP/1.1 100 Continue\r\n\r\n" + ok,
		"103 before 200":          "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok,
		"six times 103":           strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 6) + ok,
		"status of two digits":    "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
		"status of four digits":   "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
		"status in words":         "HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
		"headers of 32 KiB":       "HTTP/1.1 200 OK\r\n" + many(32) + "Content-Length: 0\r\n\r\n",
		"headers of 100 KiB":      "HTTP/1.1 200 OK\r\n" + many(100) + "Content-Length: 0\r\n\r\n",
		"150 headers":             "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: 1\r\n", 150) + "Content-Length: 0\r\n\r\n",
		"gzip":                    "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
		"a body of 1 MiB":         "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat("x", 1<<20),
		"204 with a body":         "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nab",
	} {
		add(name, path("/"), says(text))
	}

	for _, p := range []string{
		"", "/", "healthz", "/x#part", "/x?y=1#part", "/x?", "/x?y=1&z", "?q=1", "/%41", "/%zz", "//x", "/x;y", "/x y", "/\u00e4",
		"/a/../b", "/x?y=a b", "/x?y=#", "http://other.example/x", "/x:y", "x:y", "/x\"y", "/x|y", "/x%2fy", "/{x}", "/x^y", "/#",
	} {
		add("path "+p, path(p), unless(func(seen) bool { return true }, 500))
	}

	has := func(name, value string) func(seen) bool {
		return func(r seen) bool { return strings.Join(r.headers[name], "|") == value }
	}
	add("needs Accept", path("/"), unless(has("accept", "*/*"), 406))
	add("Accept of its own", headers("Accept", "text/html"), unless(has("accept", "text/html"), 406))
	add("Accept in lower case", headers("accept", "text/html"), unless(has("accept", "text/html"), 406))
	add("an empty Accept", headers("Accept", ""), unless(has("accept", ""), 406))
	add("an empty header", headers("X-A", ""), unless(func(r seen) bool { return r.headers["x-a"] != nil }, 500))
	add("a repeated header", headers("X-A", "1", "X-A", "2"), unless(has("x-a", "1|2"), 500))
	add("a User-Agent of its own", headers("User-Agent", "me"), unless(has("user-agent", "me"), 500))
	add("a User-Agent of nothing", headers("User-Agent", ""), unless(has("user-agent", ""), 500))
	add("a Host of its own", headers("Host", "app.local"), unless(func(r seen) bool { return r.host == "app.local" }, 400))
	add("a Host in lower case", headers("host", "app.local"), unless(func(r seen) bool { return r.host == "app.local" }, 400))
	add("a Host with a port", headers("Host", "app.local:81"), unless(func(r seen) bool { return r.host == "app.local:81" }, 400))
	add("two Hosts", headers("Host", "a.local", "Host", "b.local"), unless(func(r seen) bool { return r.host == "a.local" }, 400))
	add("a Cookie", headers("Cookie", "a=b; c=d"), unless(has("cookie", "a=b; c=d"), 500))
	add("Connection", headers("Connection", "keep-alive"), says(ok))
	add("Accept-Encoding", headers("Accept-Encoding", "gzip"), unless(has("accept-encoding", "gzip"), 500))

	// Tomcat, for one, takes only valid host names.
	valid := func(r seen) bool { return r.host != "" && !strings.Contains(r.host, "_") }
	rows = append(rows,
		row{name: "a default Host with an underscore", get: path("/"), answer: unless(valid, 400), unnamed: true},
		row{name: "keeps the connection", get: path("/"), answer: well, checks: 10},
		row{name: "closes and does not say so", get: path("/"), answer: says(ok), checks: 10},
		row{name: "closes idle connections", get: path("/"), answer: closesWhenIdle, checks: 25},
		row{name: "accepts no second connection", get: path("/"), answer: well, checks: 10, accepts: 1},
	)
	return rows
}

func many(kib int) string {
	return strings.Repeat("X-A: "+strings.Repeat("x", 1024-7)+"\r\n", kib)
}

// closesWhenIdle closes the connection 0.205 s after its last response, which is about when the next check comes.
func closesWhenIdle(c net.Conn, r seen) bool {
	keep := well(c, r)
	_ = c.SetReadDeadline(time.Now().Add(205 * time.Millisecond))
	return keep
}
