// Pages: the library answers a property query with all objects at once, whatever maxObjects says. Real servers do not.
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"sync"
)

var (
	maxRE     = regexp.MustCompile(`<maxObjects>(\d+)</maxObjects>`)
	tokenRE   = regexp.MustCompile(`<token>([^<]*)</token>`)
	objectsRE = regexp.MustCompile(`(?s)<objects>.*?</objects>`)
)

// pages keeps what is left of answers, by token. A token is good for the session that got it.
type pages struct {
	mu   sync.Mutex
	next int
	left map[string]page
}

type page struct {
	cookie  string
	objects [][]byte
	max     int
}

// cut answers with the first page and keeps the rest.
func (p *pages) cut(request, answer []byte, cookie string) []byte {
	limit := maxRE.FindSubmatch(request)
	if limit == nil {
		return answer
	}
	max, _ := strconv.Atoi(string(limit[1]))
	objects := objectsRE.FindAll(answer, -1)
	if max < 1 || len(objects) <= max {
		return answer
	}
	begin := bytes.Index(answer, objects[0])
	end := bytes.LastIndex(answer, []byte("</objects>")) + len("</objects>")
	return bytes.Join([][]byte{answer[:begin], p.first(objects, cookie, max), answer[end:]}, nil)
}

// first gives the token, if there is more, and the first objects.
func (p *pages) first(objects [][]byte, cookie string, max int) []byte {
	if len(objects) <= max {
		return bytes.Join(objects, nil)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == nil {
		p.left = map[string]page{}
	}
	p.next++
	token := fmt.Sprintf("<%d> & more", p.next)
	p.left[token] = page{cookie, objects[max:], max}
	return append([]byte("<token>"+escape.Replace(token)+"</token>"), bytes.Join(objects[:max], nil)...)
}

// more answers ContinueRetrievePropertiesEx.
func (p *pages) more(w http.ResponseWriter, request []byte, cookie string) {
	token := ""
	if x := tokenRE.FindSubmatch(request); x != nil {
		token = unescape.Replace(string(x[1]))
	}
	p.mu.Lock()
	rest, ok := p.left[token]
	if ok && rest.cookie == cookie {
		delete(p.left, token)
	}
	p.mu.Unlock()
	if !ok || rest.cookie != cookie {
		soapFault(w, "A specified parameter was not correct: token", "InvalidArgument", "<invalidProperty>token</invalidProperty>")
		return
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	fmt.Fprintf(w, envelope, fmt.Sprintf(`<ContinueRetrievePropertiesExResponse xmlns="urn:vim25"><returnval>%s</returnval></ContinueRetrievePropertiesExResponse>`,
		p.first(rest.objects, cookie, rest.max)))
}
