// vcsim: small vCenter / ESXi simulator process for integration tests.
// Uses only the simulator library of Debian's golang-github-vmware-govmomi-dev (0.24.2); built by scripts/lab-vsphere.
//
// On top of the library it adds a thin HTTP middleware, because the library
// has no authorisation at all:
//
//	-ro-user/-ro-pass  second account that can log in and read, but every
//	                   changing call fails with a NoPermission fault, and
//	                   HasPrivilegeOnEntities & co. answer "not granted"
//	-free              changing calls fail with RestrictedVersion (free ESXi);
//	                   the licence list shows editionKey esxBasic
//	-fail METHOD=FAULT one SOAP method fails with that fault (FAULT*N: N times);
//	                   also at run time, without TLS, at the address VCSIM_CONTROL: POST /vcsim/fail?method=M&fault=F[&passes=K]
//	-idle, POST /vcsim/end-session?after=METHOD
//	                   sessions end, and what comes after is NotAuthenticated
//	-record FILE       every request, for checking what a client sends
//	POST /vcsim/set?vm=NAME&property=P&value=V
//	                   what a guest would report: see setProperty
//	/folder            requires the session cookie or basic auth (as real ones do)
//	QueryChangedDiskAreas answered from the real allocated extents (SEEK_DATA)
package main

import (
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

type kvFlag map[string]string

func (k kvFlag) String() string { return fmt.Sprint(map[string]string(k)) }
func (k kvFlag) Set(s string) error {
	p := strings.SplitN(s, "=", 2)
	if len(p) != 2 {
		return fmt.Errorf("want METHOD=FAULT")
	}
	k[p[0]] = p[1]
	return nil
}

var (
	listen = flag.String("l", "127.0.0.1:8989", "listen address (port 0: choose one)")
	useTLS = flag.Bool("tls", true, "serve https with a self-signed certificate")
	esx    = flag.Bool("esx", false, "standalone ESXi model instead of vCenter")
	nDC    = flag.Int("dc", 1, "datacenters (vCenter)")
	nClu   = flag.Int("cluster", 1, "clusters per datacenter (vCenter)")
	nHost  = flag.Int("host", 3, "hosts per cluster (vCenter)")
	nAlone = flag.Int("standalone-host", 1, "standalone hosts per datacenter (vCenter)")
	nDS    = flag.Int("ds", 1, "datastores, mounted on every host")
	nVM    = flag.Int("vm", 2, "virtual machines per resource pool")
	nPool  = flag.Int("pool", 0, "extra resource pools per cluster")
	nPG    = flag.Int("pg", 1, "distributed port groups (vCenter)")
	user   = flag.String("user", "administrator@vsphere.local", "account name")
	pass   = flag.String("pass", "P@ssw0rd!", "account password")
	roUser = flag.String("ro-user", "", "read-only account name")
	roPass = flag.String("ro-pass", "", "read-only account password")
	free   = flag.Bool("free", false, "behave like free ESXi: no changing calls over the API")
	delay  = flag.Int("delay", 0, "milliseconds before every answer")
	idle   = flag.Duration("idle", 0, "sessions expire after this long without a call (0: never)")
	cert   = flag.String("cert", "", "TLS certificate, PEM (the built-in one has a 1024-bit key: strict clients refuse it)")
	key    = flag.String("key", "", "TLS key, PEM")
	record = flag.String("record", "", "append every SOAP request to this file, one JSON string a line")
	trace  = flag.Bool("trace", false, "write SOAP traffic to stderr")
	fail   = kvFlag{}
	passes = map[string]int{} // calls that are let through before those that fail
	only   = kvFlag{}
)

// Methods that a read-only account (and free ESXi) may call.
var readOnly = regexp.MustCompile(`^(Retrieve|Query|Login|Logout|Has|Fetch|Find|Create(ContainerView|Filter|ListView|PropertyCollector|CollectorForTasks|CollectorForEvents)|Destroy(View|PropertyFilter|PropertyCollector|Collector)|WaitForUpdates|CheckForUpdates|CancelWaitForUpdates|ContinueRetrieve|CurrentTime|SessionIsActive|Read|Decode|ListView)`)

var (
	bodyRE   = regexp.MustCompile(`<(?:[A-Za-z0-9]+:)?Body[^>]*>\s*<(?:[A-Za-z0-9]+:)?([A-Za-z_]+)`)
	loginRE  = regexp.MustCompile(`(?s)<(?:\w+:)?userName[^>]*>([^<]*)</.*<(?:\w+:)?password[^>]*>([^<]*)</`)
	thisRE   = regexp.MustCompile(`<(?:\w+:)?_this [^>]*?type="([^"]*)"[^>]*>([^<]*)<`)
	grantRE  = regexp.MustCompile(`<privId>([^<]*)</privId><isGranted>true</isGranted>`)
	unescape = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&quot;", `"`, "&apos;", "'", "&#34;", `"`, "&#39;", "'", "&amp;", "&")
	escape   = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
)

const envelope = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/" xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`

func soapFault(w http.ResponseWriter, msg, kind, detail string) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(w, envelope, fmt.Sprintf(`<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>%s</faultstring><detail><%sFault xmlns="urn:vim25" xsi:type="%s">%s</%sFault></detail></soapenv:Fault>`,
		escape.Replace(msg), kind, kind, detail, kind))
}

type middleware struct {
	next http.Handler
	mu   sync.Mutex
	ro   map[string]bool // session cookies of the read-only account
	*sessions
	pages
}

type recorder struct {
	header http.Header
	code   int
	buf    bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(c int)           { r.code = c }
func (r *recorder) Write(b []byte) (int, error) { return r.buf.Write(b) }

func cookie(r *http.Request) string {
	if c, err := r.Cookie("vmware_soap_session"); err == nil {
		return strings.Trim(c.Value, `"`)
	}
	return ""
}

func (m *middleware) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/folder") {
		m.folder(w, r)
		return
	}
	if r.Method != http.MethodPost || !strings.HasPrefix(r.URL.Path, "/sdk") {
		m.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := ""
	if x := bodyRE.FindSubmatch(body); x != nil {
		name = string(x[1])
	}
	recordRequest(body)
	if !isPublic(name) && !m.use(cookie(r)) {
		soapFault(w, "The session is not authenticated.", "NotAuthenticated", "")
		return
	}
	defer m.answered(name, cookie(r))
	m.mu.Lock()
	isRO := m.ro[cookie(r)]
	m.mu.Unlock()

	this := ""
	if x := thisRE.FindSubmatch(body); x != nil {
		this = fmt.Sprintf(`<object type="%s">%s</object>`, x[1], x[2])
	}
	m.mu.Lock()
	kind, bad := fail[name]
	if bad && passes[name] > 0 {
		passes[name]--
		bad = false
	}
	if i := strings.LastIndex(kind, "*"); bad && i > 0 { // FAULT*N: the next N calls
		n, _ := strconv.Atoi(kind[i+1:])
		fail[name] = fmt.Sprintf("%s*%d", kind[:i], n-1)
		if n <= 1 {
			delete(fail, name)
		}
		kind = kind[:i]
	}
	m.mu.Unlock()
	if bad && kind == "partly" { // done without its last device, and nothing is said
		body = withoutLastDevice(body)
		bad = false
	}
	if bad {
		if kind == "stuck" || kind == "ignored" { // a task that never ends, or ends well and has done nothing
			newTask(w, body, name, nil, kind == "ignored")
		} else if strings.HasSuffix(name, "_Task") {
			failTask(w, body, name, newFault(kind))
		} else {
			soapFault(w, "injected "+kind, kind, "")
		}
		return
	}
	if !readOnly.MatchString(name) && name != "" {
		if isRO {
			soapFault(w, "Permission to perform this operation was denied.", "NoPermission",
				this+`<privilegeId>`+name+`</privilegeId>`)
			return
		}
		if *free {
			soapFault(w, "Current license or ESXi version prohibits execution of the requested operation.", "RestrictedVersion", "")
			return
		}
	}
	if name == "ContinueRetrievePropertiesEx" {
		m.more(w, body, cookie(r))
		return
	}
	if name == "QueryChangedDiskAreas" {
		m.changed(w, body)
		return
	}

	if name == "ReconfigVM_Task" || name == "PowerOnVM_Task" || name == "DeleteVirtualDisk_Task" {
		if f := lockedDisk(body); f != nil {
			failTask(w, body, name, f)
			return
		}
	}

	if name == "RemoveSnapshot_Task" || name == "RemoveAllSnapshots_Task" {
		keepDisks()
	}

	roLogin := false
	if name == "Login" && *roUser != "" {
		if x := loginRE.FindSubmatch(body); x != nil &&
			unescape.Replace(string(x[1])) == *roUser && unescape.Replace(string(x[2])) == *roPass {
			roLogin = true
			body = bytes.Replace(body, x[1], []byte(escape.Replace(*user)), 1)
			body = bytes.Replace(body, x[2], []byte(escape.Replace(*pass)), 1)
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))

	rec := &recorder{header: w.Header(), code: http.StatusOK}
	m.next.ServeHTTP(rec, r)
	out := rec.buf.Bytes()
	switch name {
	case "CreateVM_Task", "ReconfigVM_Task", "CreateVirtualDisk_Task", "CloneVM_Task", "CopyVirtualDisk_Task":
		fixDisks()
		fixSettings()
	}

	if name == "RetrievePropertiesEx" {
		out = m.cut(body, out, cookie(r))
	}
	if name == "Login" && rec.code == http.StatusOK {
		res := http.Response{Header: w.Header()}
		for _, c := range res.Cookies() {
			if c.Name == "vmware_soap_session" {
				m.login(c.Value)
				m.mu.Lock()
				m.ro[c.Value] = roLogin
				m.mu.Unlock()
			}
		}
	}
	if isRO || roLogin {
		out = bytes.Replace(out, []byte(escape.Replace(*user)), []byte(escape.Replace(*roUser)), -1)
	}
	if isRO && strings.HasPrefix(name, "Has") { // HasPrivilegeOnEntities, HasUserPrivilegeOnEntities, HasPrivilegeOnEntity
		out = grantRE.ReplaceAllFunc(out, func(b []byte) []byte {
			if bytes.HasPrefix(b, []byte("<privId>System.")) {
				return b
			}
			return bytes.Replace(b, []byte("true"), []byte("false"), 1)
		})
		out = bytes.Replace(out, []byte("<returnval>true</returnval>"), []byte("<returnval>false</returnval>"), -1)
	}
	if isRO && name == "FetchUserPrivilegeOnEntities" {
		re := regexp.MustCompile(`<privileges>[^<]*</privileges>`)
		first := true
		out = re.ReplaceAllFunc(out, func([]byte) []byte {
			if first {
				first = false
				return []byte("<privileges>System.Anonymous</privileges><privileges>System.Read</privileges><privileges>System.View</privileges>")
			}
			return nil
		})
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.Header().Del("Content-Length")
	w.WriteHeader(rec.code)
	_, _ = w.Write(out)
}

// folder: datastore file access. The library has no authentication here.
func (m *middleware) folder(w http.ResponseWriter, r *http.Request) {
	ok := m.use(cookie(r))
	m.mu.Lock()
	ro := m.ro[cookie(r)]
	m.mu.Unlock()
	if u, p, has := r.BasicAuth(); has && !ok {
		ok = u == *user && p == *pass
		if !ok && *roUser != "" && u == *roUser && p == *roPass {
			ok, ro = true, true
		}
	}
	write := r.Method != http.MethodGet && r.Method != http.MethodHead
	switch {
	case !ok:
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		w.WriteHeader(http.StatusUnauthorized)
	case write && (ro || *free):
		w.WriteHeader(http.StatusForbidden)
	default:
		m.next.ServeHTTP(w, r)
	}
}

func newFault(kind string) types.BaseMethodFault {
	if t, ok := types.TypeFunc()(kind); ok {
		if f, ok := reflect.New(t).Interface().(types.BaseMethodFault); ok {
			return f
		}
	}
	return &types.SystemError{Reason: "unknown fault " + kind}
}

// failTask answers a *_Task method with a task that ends in state error, as real servers do.
func failTask(w http.ResponseWriter, body []byte, name string, f types.BaseMethodFault) {
	newTask(w, body, name, f, true)
}

func withoutLastDevice(body []byte) []byte {
	begin, end := bytes.LastIndex(body, []byte("<deviceChange>")), bytes.LastIndex(body, []byte("</deviceChange>"))
	if begin < 0 || end < begin {
		return body
	}
	return append(append([]byte{}, body[:begin]...), body[end+len("</deviceChange>"):]...)
}

func newTask(w http.ResponseWriter, body []byte, name string, f types.BaseMethodFault, ends bool) {
	x := thisRE.FindSubmatch(body)
	if x == nil {
		soapFault(w, "bad request", "InvalidRequest", "")
		return
	}
	ref := types.ManagedObjectReference{Type: string(x[1]), Value: string(x[2])}
	task := simulator.CreateTask(ref, strings.TrimSuffix(name, "_Task"), func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		return nil, f
	})
	if ends {
		task.Run()
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	fmt.Fprintf(w, envelope, fmt.Sprintf(`<%sResponse xmlns="urn:vim25"><returnval type="Task">%s</returnval></%sResponse>`,
		name, escape.Replace(task.Self.Value), name))
}

func main() {
	flag.Var(fail, "fail", "METHOD=FAULT[*N], may be repeated: that method fails [N times] (a failed task for *_Task methods)")
	flag.Var(only, "only", "DATASTORE=HOST, may be repeated: that datastore is mounted on that host alone")
	flag.Parse()
	log.SetOutput(os.Stderr)

	var model *simulator.Model
	if *esx {
		model = simulator.ESX()
	} else {
		model = simulator.VPX()
		model.Datacenter, model.Cluster, model.ClusterHost, model.Host = *nDC, *nClu, *nHost, *nAlone
		model.Pool, model.Portgroup = *nPool, *nPG
	}
	model.Datastore, model.Machine = *nDS, *nVM
	model.DelayConfig.Delay = *delay
	defer model.Remove()
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	simulator.Trace = *trace
	fixMounts()
	fixDisks()
	if *free {
		lm := simulator.Map.Get(*model.ServiceContent.LicenseManager).(*simulator.LicenseManager)
		lm.Licenses[0] = types.LicenseManagerLicenseInfo{
			LicenseKey: "00000-00000-00000-00000-00001", EditionKey: "esxBasic", Name: "VMware vSphere Hypervisor",
		}
	}

	s := model.Service
	s.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *pass)}
	if *useTLS {
		s.TLS = new(tls.Config)
		if *cert != "" {
			pair, err := tls.LoadX509KeyPair(*cert, *key)
			if err != nil {
				log.Fatal(err)
			}
			s.TLS.Certificates = []tls.Certificate{pair}
		}
	}
	srv := s.NewServer()
	m := &middleware{next: srv.Config.Handler, ro: map[string]bool{}, sessions: newSessions()}
	srv.Config.Handler = m
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = http.Serve(control, http.HandlerFunc(m.control)) }()

	u := *srv.URL
	u.User = nil
	fmt.Printf("VCSIM_URL=%s\n", u.String())
	fmt.Printf("VCSIM_CONTROL=%s\n", control.Addr())
	fmt.Printf("VCSIM_PID=%d\n", os.Getpid())
	for _, o := range simulator.Map.All("Datastore") {
		ds := o.(*simulator.Datastore)
		fmt.Printf("VCSIM_DATASTORE_%s=%s\n", ds.Name, ds.Info.GetDatastoreInfo().Url)
	}
	fmt.Println("VCSIM_READY=1")

	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM)
	<-sig
	srv.Close()
}
