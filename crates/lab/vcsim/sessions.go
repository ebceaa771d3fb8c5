// Sessions and the record of requests: what the library leaves out and clients depend on.
//
// The library answers property reads without a session, and ends an idle one without anybody noticing. A real server answers
// NotAuthenticated to everything but Login and RetrieveServiceContent, so this does.
package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// sessions knows which cookies are logged in.
type sessions struct {
	mu     sync.Mutex
	last   map[string]time.Time // last use, by cookie
	ending map[string]int       // methods after which the caller's session ends, and how many times
}

func newSessions() *sessions {
	return &sessions{last: map[string]time.Time{}, ending: map[string]int{}}
}

func (s *sessions) login(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[cookie] = time.Now()
}

// use tells whether a cookie is logged in, and keeps its session alive.
func (s *sessions) use(cookie string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.last[cookie]
	if ok && *idle > 0 && time.Since(last) > *idle {
		delete(s.last, cookie)
		return false
	}
	if ok {
		s.last[cookie] = time.Now()
	}
	return ok
}

// endAfter lets the session of whoever calls the method next end when it has been answered.
func (s *sessions) endAfter(method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending[method]++
}

// answered ends the caller's session if that was asked for.
func (s *sessions) answered(method, cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending[method] > 0 {
		s.ending[method]--
		delete(s.last, cookie)
	}
}

// Methods that need no session on a real server.
func isPublic(method string) bool {
	return method == "Login" || method == "RetrieveServiceContent" || method == "LoginExtensionByCertificate" || method == "LoginByToken"
}

var recordMu sync.Mutex

// recordRequest appends a request's body to the -record file, one JSON string a line.
func recordRequest(body []byte) {
	if *record == "" {
		return
	}
	recordMu.Lock()
	defer recordMu.Unlock()
	line, err := json.Marshal(string(body))
	if err != nil {
		return
	}
	f, err := os.OpenFile(*record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.Write(append(line, '\n'))
}

// control answers what tests ask of the simulator itself, at an address of its own and without TLS.
func (m *middleware) control(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/vcsim/fail": // ?method=PowerOnVM_Task&fault=InsufficientResourcesFault*1&passes=2; without a fault: no more
		m.mu.Lock()
		passes[r.FormValue("method")], _ = strconv.Atoi(r.FormValue("passes"))
		if f := r.FormValue("fault"); f == "" {
			delete(fail, r.FormValue("method"))
		} else {
			fail[r.FormValue("method")] = f
		}
		m.mu.Unlock()
	case "/vcsim/end-session": // ?after=PowerOnVM_Task
		m.sessions.endAfter(r.FormValue("after"))
	case "/vcsim/maintenance": // ?host=NAME&value=true
		setMaintenance(w, r)
	case "/vcsim/set": // ?vm=NAME&property=guest.toolsRunningStatus&value=guestToolsRunning
		setProperty(w, r)
	default:
		http.NotFound(w, r)
	}
}
