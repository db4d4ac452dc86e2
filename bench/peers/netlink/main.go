// Command netlink is github.com/vishvananda/netlink as a contender: see engine/fastnl_engine/bench/worker.py.
//
//	netlink born|moved FILE
//
// born: both ends are created in their namespaces by one message.  moved: created here, moved, renamed.
// A handle is a socket inside a namespace, of the one family that is needed; each step opens each once.  Deletes run
// in several goroutines, since what one delete waits for can be waited for by several at a time.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const deleters = 16

type route struct {
	To string `json:"to"`
}

type end struct {
	Netns     string   `json:"netns"`
	Ifname    string   `json:"ifname"`
	Mtu       int      `json:"mtu"`
	Addresses []string `json:"addresses"`
	Routes    []route  `json:"routes"`
}

type tunnel struct {
	Vni    int    `json:"vni"`
	Local  string `json:"local"`
	Remote string `json:"remote"`
}

type connection struct {
	Kind  string `json:"kind"`
	A     end    `json:"a"`
	B     end    `json:"b"`
	Vxlan tunnel `json:"vxlan"`
}

func (c *connection) ends() []*end {
	if c.Kind == "vxlan" {
		return []*end{&c.A}
	}
	return []*end{&c.A, &c.B}
}

// places are the namespaces of one step: opened when they are first asked for, closed at its end.
type places struct {
	here    *netlink.Handle
	spaces  map[string]netns.NsHandle
	handles map[string]*netlink.Handle
}

func open() *places {
	here, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	check(err)
	return &places{here, map[string]netns.NsHandle{}, map[string]*netlink.Handle{}}
}

func (p *places) space(name string) netns.NsHandle {
	if ns, ok := p.spaces[name]; ok {
		return ns
	}
	ns, err := netns.GetFromName(name)
	check(err)
	p.spaces[name] = ns
	return ns
}

func (p *places) handle(name string) *netlink.Handle {
	if h, ok := p.handles[name]; ok {
		return h
	}
	h, err := netlink.NewHandleAt(p.space(name), syscall.NETLINK_ROUTE)
	check(err)
	p.handles[name] = h
	return h
}

func (p *places) close() {
	for _, h := range p.handles {
		h.Close()
	}
	for _, ns := range p.spaces {
		ns.Close()
	}
	p.here.Close()
}

func attributes(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name, a.NumTxQueues, a.NumRxQueues = name, 1, 1
	return a
}

func (p *places) create(n int, c *connection, moved bool) {
	names := []string{c.A.Ifname, c.B.Ifname}
	if moved {
		names = []string{fmt.Sprintf("tmp%da", n), fmt.Sprintf("tmp%db", n)}
	}
	base := attributes(names[0])
	if !moved {
		base.Namespace = netlink.NsFd(p.space(c.A.Netns))
	}
	var link netlink.Link
	if c.Kind == "vxlan" {
		base.MTU = 1450
		link = &netlink.Vxlan{
			LinkAttrs: base, VxlanId: c.Vxlan.Vni, SrcAddr: net.ParseIP(c.Vxlan.Local),
			Group: net.ParseIP(c.Vxlan.Remote), Port: 4789, Learning: true,
		}
	} else {
		veth := &netlink.Veth{LinkAttrs: base, PeerName: names[1], PeerNumTxQueues: 1, PeerNumRxQueues: 1}
		if !moved {
			veth.PeerNamespace = netlink.NsFd(p.space(c.B.Netns))
		}
		link = veth
	}
	check(p.here.LinkAdd(link))
	for i, e := range c.ends() {
		if moved {
			here, err := p.here.LinkByName(names[i])
			check(err)
			check(p.here.LinkSetNsFd(here, int(p.space(e.Netns))))
		}
		there := p.handle(e.Netns)
		found, err := there.LinkByName(names[i])
		check(err)
		if moved {
			check(there.LinkSetName(found, e.Ifname))
		}
		furnish(there, found, e)
	}
}

func furnish(there *netlink.Handle, found netlink.Link, e *end) {
	for _, text := range e.Addresses {
		check(there.AddrAdd(found, address(text)))
	}
	check(there.LinkSetUp(found))
	for _, r := range e.Routes {
		_, to, err := net.ParseCIDR(r.To)
		check(err)
		check(there.RouteAdd(&netlink.Route{LinkIndex: found.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}))
	}
}

func address(text string) *netlink.Addr {
	parsed, err := netlink.ParseAddr(text)
	check(err)
	return parsed
}

// update changes the MTU and the addresses of the first end.
func (p *places) update(was, now *end) {
	there := p.handle(was.Netns)
	found, err := there.LinkByName(was.Ifname)
	check(err)
	check(there.LinkSetMTU(found, now.Mtu))
	for _, text := range now.Addresses {
		check(there.AddrAdd(found, address(text)))
	}
	for _, text := range was.Addresses {
		check(there.AddrDel(found, address(text)))
	}
}

// move takes the first end to another namespace, where it has to be furnished again.  One after the other: moves
// wait under the kernel's one lock, so that goroutines bring nothing.
func (p *places) move(e *end, room string) {
	here := p.handle(e.Netns)
	found, err := here.LinkByName(e.Ifname)
	check(err)
	check(here.LinkSetNsFd(found, int(p.space(room))))
	e.Netns = room
	there := p.handle(room)
	found, err = there.LinkByName(e.Ifname)
	check(err)
	furnish(there, found, e)
}

func (p *places) remove(connections []connection) {
	for i := range connections {
		p.space(connections[i].A.Netns)
	}
	work := make(chan *connection)
	var running sync.WaitGroup
	for i := 0; i < deleters; i++ {
		running.Add(1)
		go func() {
			defer running.Done()
			for c := range work {
				// a handle is for one request at a time, and deletes shall overlap
				h, err := netlink.NewHandleAt(p.spaces[c.A.Netns], syscall.NETLINK_ROUTE)
				check(err)
				link, err := h.LinkByName(c.A.Ifname)
				check(err)
				check(h.LinkDel(link))
				h.Close()
			}
		}()
	}
	for i := range connections {
		work <- &connections[i]
	}
	close(work)
	running.Wait()
}

func processorTime() float64 {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "netlink:", err)
		os.Exit(1)
	}
}

func main() {
	if len(os.Args) != 3 || os.Args[1] != "born" && os.Args[1] != "moved" {
		fmt.Fprintln(os.Stderr, "usage: netlink born|moved FILE")
		os.Exit(2)
	}
	runtime.LockOSThread() // handles are made by a change of this thread's namespace
	text, err := os.ReadFile(os.Args[2])
	check(err)
	var given struct {
		Connections []connection `json:"connections"`
		Updated     []connection `json:"updated"`
		Rooms       []string     `json:"rooms"`
	}
	check(json.Unmarshal(text, &given))
	var standing []connection
	fmt.Println("ready")
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		begin, used := time.Now(), processorTime()
		here := open()
		switch input.Text() {
		case "create":
			standing = append([]connection{}, given.Connections...)
			for n := range standing {
				here.create(n, &standing[n], os.Args[1] == "moved")
			}
		case "update":
			for n := range standing {
				here.update(&standing[n].A, &given.Updated[n].A)
				standing[n] = given.Updated[n]
			}
		case "move":
			for n := range standing {
				here.move(&standing[n].A, given.Rooms[n%len(given.Rooms)])
			}
		case "delete":
			here.remove(standing)
		default:
			check(fmt.Errorf("no step %q", input.Text()))
		}
		here.close()
		fmt.Println(time.Since(begin).Seconds(), processorTime()-used)
	}
}
