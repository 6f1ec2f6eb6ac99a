{{/* What several templates say. An "engine" here is one version of one model: stable, or its canary. */}}

{{- define "forebay.labels" -}}
app.kubernetes.io/name: forebay
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .engine }}
forebay.dev/model: {{ .name }}
forebay.dev/track: {{ .track }}
{{- end }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* The labels that never change: what selects pods. */}}
{{- define "forebay.selector" -}}
app.kubernetes.io/name: forebay
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .engine }}
forebay.dev/model: {{ .name }}
forebay.dev/track: {{ .track }}
{{- end }}
{{- end }}

{{/* An image as a pod names it: `image` with `instead` in its place where that says something. */}}
{{- define "forebay.image" -}}
{{- $instead := .instead | default dict }}
{{- $repository := $instead.repository | default .image.repository }}
{{- $tag := $instead.tag | default .image.tag | default .root.Chart.AppVersion }}
{{- $digest := $instead.digest | default (ternary "" .image.digest (not (empty (or $instead.repository $instead.tag)))) }}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
{{ $repository }}{{ if $digest }}@{{ $digest }}{{ else }}:{{ $tag }}{{ end }}
{{- end }}

{{/* b over a, tables key by key; what b says counts, 0, false and "" too. As JSON. */}}
{{- define "forebay.over" -}}
{{- $made := deepCopy .a }}
{{- range $key, $value := .b }}
{{- if and (kindIs "map" $value) (kindIs "map" (get $made $key)) }}
{{- $value = include "forebay.over" (dict "a" (get $made $key) "b" $value) | fromJson }}
{{- end }}
{{- $_ := set $made $key $value }}
{{- end }}
{{- toJson $made }}
{{- end }}

{{/* All engines, stable ones and canaries, each with all that is said of it. As JSON. */}}
{{- define "forebay.engines" -}}
{{- $engines := list }}
{{- $names := list }}
{{- range $given := .Values.models }}
{{- $model := include "forebay.over" (dict "a" $.Values.modelDefaults "b" $given) | fromJson }}
{{- if has $model.name $names }}{{ fail (printf "models: %s: the name is there twice" $model.name) }}{{ end }}
{{- $names = concat $names (list $model.name (printf "%s-canary" $model.name)) }}
{{- $scaling := include "forebay.over" (dict "a" $.Values.autoscaling "b" $model.autoscaling) | fromJson }}
{{- $alike := dict "servedName" ($model.servedName | default $model.model) }}
{{- $stable := merge (dict "track" "stable" "group" $model.name "autoscaling" $scaling) $alike (omit $model "servedName" "autoscaling" "canary") }}
{{- $_ := set $stable "workload" (printf "%s-%s" $.Release.Name $model.name) }}
{{- $_ := set $stable "weight" (sub 100 ($model.canary.weight | int)) }}
{{- $_ := set $stable "weighted" $model.canary.enabled }}
{{- $engines = append $engines $stable }}
{{- if $model.canary.enabled }}
{{- $canary := include "forebay.over" (dict "a" $stable "b" (omit $model.canary "enabled")) | fromJson }}
{{- $_ := set $canary "track" "canary" }}
{{- $_ := set $canary "group" (printf "%s-canary" $model.name) }}
{{- $_ := set $canary "workload" (printf "%s-canary" $stable.workload) }}
{{- $_ := set $canary "autoscaling" (dict "kind" "none") }}
{{- $engines = append $engines $canary }}
{{- end }}
{{- end }}
{{- toJson $engines }}
{{- end }}

{{/* A table of settings as TOML: JSON's scalars and lists are TOML's, and tables are written inline. */}}
{{- define "forebay.toml" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ include "forebay.tomlValue" $value }}
{{- end }}
{{- end }}

{{- define "forebay.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- range $at, $key := keys . | sortAlpha }}{{ if $at }}, {{ end }}{{ toJson $key }} = {{ include "forebay.tomlValue" (get $ $key) }}{{ end -}} }
{{- else -}}
{{ toJson . }}
{{- end }}
{{- end }}

{{/* The gateways' settings, less those that are followed without a restart where `.hot` is false. TLS is the ingress's,
     and the network policy keeps everybody else away: hence allow_plain_admin. */}}
{{- define "forebay.gatewaySettings" -}}
{{- $root := .root }}
{{- $values := $root.Values }}
{{- $upstream := list }}
{{- $weights := dict }}
{{- range include "forebay.engines" $root | fromJsonArray }}
{{- $upstream = append $upstream (printf "kubernetes://%s/%s:engine#%s" $root.Release.Namespace .workload .group) }}
{{- if .weighted }}{{ $_ := set $weights .group .weight }}{{ end }}
{{- end }}
{{- $settings := dict
  "host" "0.0.0.0" "port" 8000 "metrics_port" 9464 "metrics_port_public" true "log_format" "json"
  "drain_delay_s" $values.gateway.drain.delaySeconds "drain_timeout_s" $values.gateway.drain.timeoutSeconds
  "allow_anonymous" $values.auth.allowAnonymous "allow_plain_admin" true
  "prefill_target_s" 0.5 "cache_shared" $values.redis.sharedCache }}
{{- $settings = merge (deepCopy $values.settings) $settings }}
{{- if .hot }}{{ $settings = merge (dict "upstream" $upstream "group_weights" $weights) $settings }}{{ end }}
{{- toJson $settings }}
{{- end }}

{{/* An engine's settings. */}}
{{- define "forebay.engineSettings" -}}
{{- $engine := .engine }}
{{- $settings := dict
  "engine_host" "0.0.0.0" "agent_host" "0.0.0.0" "log_format" "json" "served_model_name" $engine.servedName
  "engine_start_timeout_s" $engine.startupSeconds "warmup_cache_dir" "/var/lib/forebay/warmup"
  "drain_delay_s" $engine.drain.delaySeconds "drain_timeout_s" $engine.drain.timeoutSeconds }}
{{- if gt (int $engine.gpus) 1 }}{{ $_ := set $settings "tensor_parallel_size" (int $engine.gpus) }}{{ end }}
{{- toJson (merge (deepCopy $engine.settings) $settings) }}
{{- end }}

{{/* How long the end may take: all its parts, and ten seconds. */}}
{{- define "forebay.gracePeriod" -}}
{{- add .drain.preStopSeconds .drain.delaySeconds .drain.timeoutSeconds (.stopSeconds | default 0) 10 }}
{{- end }}

{{- define "forebay.secret" -}}
{{ .Values.auth.existingSecret | default (printf "%s-secrets" .Release.Name) }}
{{- end }}

{{- define "forebay.secretVariable" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ include "forebay.secret" .root }}
      key: {{ .key }}
      {{- if .optional }}
      optional: true
      {{- end }}
{{- end }}

{{- define "forebay.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (printf "%s-gateway" .Release.Name) }}
{{- end }}

{{/* The restricted profile of the Pod Security Standards. */}}
{{- define "forebay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "forebay.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ .readOnly }}
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where a pod may run, as the values say. */}}
{{- define "forebay.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Selects the gateways' series in Prometheus. */}}
{{- define "forebay.seriesOf" -}}
{{- .engine.autoscaling.selector | default (printf "namespace=%q,service=%q" .root.Release.Namespace (printf "%s-gateway-metrics" .root.Release.Name)) }}
{{- end }}

{{/*
How many requests for a model wait, and (with `running`) run, over all gateways: one series. It is 0 where gateways are
scraped and nobody has asked for the model yet; it is nothing, and not 0, where no gateway can be scraped: who does not
know the demand must not scale down.
*/}}
{{- define "forebay.demandQuery" -}}
{{- $of := include "forebay.seriesOf" . }}
{{- $model := printf "%s,model=%q" $of .engine.servedName }}
{{- $sum := printf "sum(forebay_queue_requests{%s})" $model }}
{{- if .running }}{{ $sum = printf "%s + sum(forebay_queue_running{%s})" $sum $model }}{{ end }}
{{- printf "%s or sum(forebay_build_info{%s}) * 0" $sum $of }}
{{- end }}
