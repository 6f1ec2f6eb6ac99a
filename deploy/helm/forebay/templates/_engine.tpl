{{/* An engine's pod. `part` is `engine`, the one that answers, or `worker`, another node of it. */}}
{{- define "forebay.enginePod" -}}
{{- $root := .root }}
{{- $engine := .engine }}
{{- $values := $root.Values }}
{{- $serves := eq .part "engine" }}
{{- $component := ternary "engine" "engine-worker" $serves }}
{{- $image := include "forebay.image" (dict "root" $root "image" $values.image.engine "instead" $engine.image) }}
{{- $hub := not (or (hasPrefix "/" $engine.model) (eq $engine.model "default")) }}
{{- $fetched := and $values.cache.download $hub }}
metadata:
  labels: {{- include "forebay.selector" (dict "root" $root "component" $component "engine" $engine) | nindent 4 }}
  annotations:
    checksum/config: {{ include "forebay.engineSettings" (dict "engine" $engine) | sha256sum }}
    checksum/secrets: {{ include (print $root.Template.BasePath "/secrets.yaml") $root | sha256sum }}
    {{- with $engine.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false # a variable VLLM_… of a Service would be taken for an option
  terminationGracePeriodSeconds: {{ include "forebay.gracePeriod" (dict "drain" $engine.drain "stopSeconds" ($engine.settings.engine_stop_timeout_s | default 10)) }}
  securityContext: {{- include "forebay.podSecurity" $root | nindent 4 }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with $engine.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- include "forebay.placement" (omit $engine "affinity") | nindent 2 }}
  {{- include "forebay.engineAffinity" $engine | nindent 2 }}
  {{- if eq (int $engine.nodes) 1 }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "forebay.selector" (dict "root" $root "component" "engine" "engine" $engine) | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- if $fetched }}
  initContainers:
    - name: model # fetched and checked by who has the way to the hub; one at a time where the cache is shared
      image: {{ include "forebay.image" (dict "root" $root "image" $values.image.gateway) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: [models, pull, {{ $engine.model | quote }}{{ with $engine.revision }}, --revision, {{ quote . }}{{ end }}]
      env:
        - name: HF_HOME
          value: {{ $values.cache.mountPath }}/huggingface
        {{- include "forebay.secretVariable" (dict "root" $root "name" "HF_TOKEN" "key" "hf-token" "optional" true) | nindent 8 }}
      resources:
        requests: {cpu: 500m, memory: 512Mi}
        limits: {cpu: "2", memory: 2Gi}
      securityContext: {{- include "forebay.security" (dict "readOnly" true) | nindent 8 }}
      volumeMounts:
        - {name: models, mountPath: {{ $values.cache.mountPath }}}
        - {name: tmp, mountPath: /tmp}
  {{- end }}
  containers:
    - name: engine
      image: {{ $image }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      {{- if $serves }}
      {{- include "forebay.engineArguments" (dict "engine" $engine) | nindent 6 }}
      {{- else }}
      {{- include "forebay.workerCommand" (dict "engine" $engine) | nindent 6 }}
      {{- end }}
      env:
        {{- if $serves }}
        - name: FOREBAY_CONFIG
          value: /etc/forebay/{{ $engine.group }}.toml
        {{- include "forebay.secretVariable" (dict "root" $root "name" "FOREBAY_UPSTREAM_API_KEY" "key" "upstream-api-key") | nindent 8 }}
        {{- end }}
        - name: HOME
          value: /var/lib/forebay
        - name: HF_HOME
          value: {{ $values.cache.mountPath }}/huggingface
        {{- if $fetched }}
        - name: HF_HUB_OFFLINE
          value: "1"
        - name: HF_MODULES_CACHE # code that comes with a model is unpacked here
          value: /var/lib/forebay/modules
        {{- else }}
        {{- include "forebay.secretVariable" (dict "root" $root "name" "HF_TOKEN" "key" "hf-token" "optional" true) | nindent 8 }}
        {{- end }}
        {{- if gt (int $engine.nodes) 1 }}
        {{- if not $serves }}
        - name: VLLM_NO_USAGE_STATS # as the agent has it for the engine that it starts
          value: "1"
        {{- end }}
        - name: VLLM_HOST_IP # the address that the other nodes reach this one at
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        {{- end }}
        {{- with $engine.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- if $serves }}
      ports:
        - {name: engine, containerPort: 8000}
        - {name: agent, containerPort: 9000}
      # All of the agent's: it answers from the first second on, and calls the engine ready once it has generated.
      startupProbe:
        httpGet: {path: /readyz, port: agent}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: {{ divf $engine.startupSeconds 10 | ceil }}
      livenessProbe: # the agent restarts an engine that died or hangs; this restarts an agent that hangs
        httpGet: {path: /livez, port: agent}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe: # 503 from SIGTERM on
        httpGet: {path: /readyz, port: agent}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      lifecycle:
        preStop:
          sleep: {seconds: {{ $engine.drain.preStopSeconds }}}
      {{- end }}
      resources: {{- include "forebay.engineResources" $engine | nindent 8 }}
      securityContext: {{- include "forebay.security" (dict "readOnly" $engine.readOnlyRootFilesystem) | nindent 8 }}
      volumeMounts:
        {{- if $serves }}
        - {name: config, mountPath: /etc/forebay, readOnly: true}
        {{- end }}
        - {name: models, mountPath: {{ $values.cache.mountPath }}, readOnly: {{ $fetched }}}
        - {name: home, mountPath: /var/lib/forebay}
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    {{- if $serves }}
    - name: config
      configMap:
        name: {{ $root.Release.Name }}-config
        items: [{key: {{ $engine.group }}.toml, path: {{ $engine.group }}.toml}]
    {{- end }}
    - name: models
      {{- if eq $values.cache.kind "claim" }}
      persistentVolumeClaim: {claimName: {{ $values.cache.claim.existing | default (printf "%s-models" $root.Release.Name) }}}
      {{- else if eq $values.cache.kind "node" }}
      hostPath: {path: {{ $values.cache.nodePath }}, type: Directory}
      {{- else }}
      emptyDir: {sizeLimit: {{ $values.cache.size }}}
      {{- end }}
    - name: home # compiled code, by model, version and options, among others
      emptyDir: {sizeLimit: 20Gi}
    - name: tmp
      emptyDir: {sizeLimit: 10Gi}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $engine.shm }}}
{{- end }}

{{/* `forebay engine MODEL`, and vLLM's options behind `--`. */}}
{{- define "forebay.engineArguments" -}}
{{- $engine := .engine }}
{{- if and (gt (int $engine.nodes) 1) (eq $engine.executor "ray") }}
# The head of the Ray cluster that the workers join; vLLM waits for them.
command: [sh, -c, 'ray start --head --port=6379 && exec forebay "$@"', forebay]
{{- end }}
args:
  - engine
  - {{ quote $engine.model }}
  - --engine-port=8000
  - --agent-port=9000
  {{- $options := $engine.args }}
  {{- with $engine.revision }}{{ $options = prepend $options (printf "--revision=%s" .) }}{{ end }}
  {{- if gt (int $engine.nodes) 1 }}
  {{- $options = concat (include "forebay.nodeOptions" $engine | fromJsonArray) $options }}
  {{- end }}
  {{- with $options }}
  - --
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* What the nodes of one engine say alike. LeaderWorkerSet sets LWS_LEADER_ADDRESS and LWS_WORKER_INDEX. */}}
{{- define "forebay.nodeOptions" -}}
{{- $options := list (printf "--pipeline-parallel-size=%d" (int .nodes)) (printf "--distributed-executor-backend=%s" .executor) }}
{{- if eq .executor "mp" }}
{{- $options = concat $options (list (printf "--nnodes=%d" (int .nodes)) "--node-rank=$(LWS_WORKER_INDEX)" "--master-addr=$(LWS_LEADER_ADDRESS)" "--master-port=29500") }}
{{- end }}
{{- toJson $options }}
{{- end }}

{{/* The same engine's other nodes: vLLM itself, which has no pages and no requests of its own. */}}
{{- define "forebay.workerCommand" -}}
{{- $engine := .engine }}
{{- if eq $engine.executor "ray" }}
command: [ray, start, --address=$(LWS_LEADER_ADDRESS):6379, --block]
{{- else }}
command: [vllm, serve]
args:
  - {{ quote $engine.model }}
  - --headless
  {{- with $engine.revision }}
  - {{ printf "--revision=%s" . }}
  {{- end }}
  {{- toYaml (include "forebay.nodeOptions" $engine | fromJsonArray) | nindent 2 }}
  {{- $settings := include "forebay.engineSettings" . | fromJson }}
  {{- range list "max_model_len" "max_num_seqs" "gpu_memory_utilization" "tensor_parallel_size" "quantization" "dtype" }}
  {{- if hasKey $settings . }}
  - {{ printf "--%s=%v" (replace "_" "-" .) (get $settings .) }}
  {{- end }}
  {{- end }}
  {{- with $engine.args }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "forebay.engineResources" -}}
{{- $resources := deepCopy .resources }}
{{- if gt (int .gpus) 0 }}
{{- $_ := set $resources "limits" (merge (dict .gpuResource (int .gpus)) ($resources.limits | default dict)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "forebay.engineAffinity" -}}
{{- $affinity := deepCopy .affinity }}
{{- with .gpuProducts }}
{{- $expression := dict "key" "nvidia.com/gpu.product" "operator" "In" "values" . }}
{{- $terms := list (dict "matchExpressions" (list $expression)) }}
{{- $node := dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- $affinity = merge $affinity (dict "nodeAffinity" $node) }}
{{- end }}
{{- with $affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
