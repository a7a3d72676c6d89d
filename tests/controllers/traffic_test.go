package controllers

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"sync"
)

// ask sends one request of a user, and returns the version that answered.
func (w *world) ask(user, path string) string {
	w.t.Helper()
	request, err := http.NewRequest(http.MethodGet, "http://"+w.envoy+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	request.Host = "reviews.shop"
	request.Header.Set("x-user-id", user)
	response, err := w.client.Do(request)
	if err != nil {
		w.t.Error(err)
		return ""
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Error(err)
	}
	return string(body)
}

// usersOf finds as many users of a version, by one request of each user that it tries.
func (w *world) usersOf(version string, count int) (users []string) {
	w.t.Helper()
	for i := 0; len(users) < count; i++ {
		if i == 10_000 {
			w.t.Fatalf("of %d users, %d have %s", i, len(users), version)
		}
		if user := fmt.Sprintf("user-%d", i); w.ask(user, "/") == version {
			users = append(users, user)
		}
	}
	return users
}

// send sends so many requests to a path, from these users in turn. Slow ones wait all at once.
func (w *world) send(users []string, path string, count int) {
	w.t.Helper()
	var all sync.WaitGroup
	callers := make(chan struct{}, 16)
	if path == "/slow" {
		callers = make(chan struct{}, count)
	}
	for i := range count {
		all.Go(func() {
			callers <- struct{}{}
			w.ask(users[i%len(users)], path)
			<-callers
		})
	}
	all.Wait()
}

// value is that of a query with one series, or NaN.
func (w *world) value(query string) float64 {
	w.t.Helper()
	response, err := w.client.Get(w.prometheus + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		return math.NaN()
	}
	defer response.Body.Close()
	var result struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if json.NewDecoder(response.Body).Decode(&result) != nil || len(result.Data.Result) != 1 {
		return math.NaN()
	}
	text, _ := result.Data.Result[0].Value[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return math.NaN()
	}
	return value
}

// near returns whether a share in percent is what was sent. Prometheus extrapolates each series on its own.
func near(value, wanted float64) bool { return math.Abs(value-wanted) < 1 }
