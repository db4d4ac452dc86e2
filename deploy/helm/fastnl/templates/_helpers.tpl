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
