{{- define "fastnl.name" -}}
{{- if contains "fastnl" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-fastnl" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "fastnl.selector" -}}
app.kubernetes.io/name: fastnl
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fastnl.labels" -}}
{{ include "fastnl.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* A probe of one of the engine's pages, or of the engine itself when it has none. */}}
{{- define "fastnl.probe" -}}
{{- if .root.Values.http.enabled -}}
httpGet:
  path: {{ .path }}
  port: {{ .root.Values.http.port }}
  {{- with .root.Values.http.host }}
  host: {{ . | quote }}
  {{- end }}
{{- else -}}
exec:
  command: [fastnl, info, --timeout, "5"]
{{- end }}
timeoutSeconds: 6
{{- end }}

{{- /* What makes the engine a forwarder of the mesh, see docs/nsm.md. */}}
{{- define "fastnl.nsm" -}}
- name: FASTNL_NSM
  value: unix:{{ .Values.nsm.folder }}/{{ .Values.nsm.socket }}
# the node's and not the pod's, as connections are known by it over the pod's end
- name: NSM_NAME
  value: {{ .Values.nsm.name | default "forwarder-$(NODE_NAME)" | quote }}
- name: NSM_BASEDIR
  value: {{ .Values.nsm.folder }}
- name: NSM_TUNNEL_IP
  value: {{ .Values.nsm.tunnelIP | default "$(NODE_ADDRESS)" | quote }}
- name: FORWARDER_PROBES
  value: $(NODE_ADDRESS):{{ .Values.nsm.probePort }}
{{- with .Values.nsm.legacy.registrar }}
- name: FORWARDER_REGISTRAR_SOCKET
  value: {{ $.Values.nsm.folder }}/{{ . }}
- name: FORWARDER_VXLAN_PORT
  value: {{ $.Values.nsm.legacy.vxlanPort | quote }}
{{- end }}
{{- with .Values.nsm.modern.connectTo }}
- name: NSM_CONNECT_TO
  value: {{ . | quote }}
- name: NSM_REGISTER_SERVICE_NAME
  value: {{ $.Values.nsm.modern.service | quote }}
- name: NSM_MAX_TOKEN_LIFETIME
  value: {{ $.Values.nsm.modern.maxTokenLifetime | quote }}
- name: NSM_VXLAN_PORT
  value: {{ $.Values.nsm.modern.vxlanPort | quote }}
{{- end }}
{{- end }}

{{- /* Configuration as keys and values, see docs/ligato.md. */}}
{{- define "fastnl.ligato" -}}
- name: FASTNL_LIGATO_STORE
  value: {{ .Values.ligato.store }}
- name: FASTNL_LIGATO_LABEL
  value: {{ .Values.ligato.label | default "$(NODE_NAME)" | quote }}
{{- if eq .Values.ligato.store "etcd" }}
- name: FASTNL_LIGATO_ENDPOINTS
  value: {{ join "," .Values.ligato.endpoints | quote }}
{{- with .Values.ligato.tls.secret }}
- name: FASTNL_LIGATO_CA
  value: /etc/fastnl-etcd-tls/ca.crt
{{- if $.Values.ligato.tls.clientCertificate }}
- name: FASTNL_LIGATO_CERT
  value: /etc/fastnl-etcd-tls/tls.crt
- name: FASTNL_LIGATO_KEY
  value: /etc/fastnl-etcd-tls/tls.key
{{- end }}
{{- end }}
{{- with .Values.ligato.passwordSecret }}
- name: FASTNL_LIGATO_USER
  value: {{ $.Values.ligato.user | quote }}
- name: FASTNL_LIGATO_PASSWORD_FILE
  value: /etc/fastnl-etcd-password/password
{{- end }}
{{- end }}
{{- end }}
