{{- define "labels" -}}
app.kubernetes.io/name: sentence-streams
app.kubernetes.io/part-of: sentence-streams
{{- end }}

{{- /* Labels of a component: (list . "worker") */ -}}
{{- define "component" -}}
{{ include "labels" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "managed" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{- /* The image with torch and scikit-learn. */ -}}
{{- define "image.full" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .fullDigest }}@{{ .fullDigest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}-full{{ end }}
{{- end -}}
{{- end }}

{{- define "config" -}}
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- if .Values.saslTls.enabled }}
STREAMS_KAFKA_SECURITY_PROTOCOL: SASL_SSL
STREAMS_KAFKA_SASL_MECHANISM: {{ .Values.saslTls.mechanism }}
STREAMS_KAFKA_SASL_PASSWORD_FILE: /run/secrets/kafka/password
STREAMS_KAFKA_SSL_CAFILE: /run/secrets/kafka/ca.crt
{{- end }}
{{- if .Values.catalog.enabled }}
STREAMS_ARTIFACTS: {{ .Values.catalog.artifacts }}
{{- end }}
{{- end }}

{{- /* What all pods have in common, beside their containers. */ -}}
{{- define "pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* What all containers have in common. */ -}}
{{- define "container" -}}
name: sentence-streams
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* Both with the name of a secret: (list . .Values.saslTls.secretName) */ -}}
{{- define "kafka.env" -}}
{{- if (index . 0).Values.saslTls.enabled }}
- name: STREAMS_KAFKA_SASL_USERNAME
  valueFrom: {secretKeyRef: {name: {{ index . 1 }}, key: username}}
{{- end }}
{{- end }}

{{- define "volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- if (index . 0).Values.saslTls.enabled }}
- name: kafka
  secret: {secretName: {{ index . 1 }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.saslTls.enabled }}
- {name: kafka, mountPath: /run/secrets/kafka, readOnly: true}
{{- end }}
{{- end }}

{{- /* A job before the rollout, up to its arguments: (list . "provision") */ -}}
{{- define "job" -}}
{{- $root := index . 0 }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $root.Release.Name }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "component" . | nindent 4 }}
    {{- include "managed" $root | nindent 4 }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  backoffLimit: 6
  activeDeadlineSeconds: 600
  ttlSecondsAfterFinished: 86400
  template:
    metadata:
      labels: {{ include "component" . | nindent 8 }}
    spec:
      restartPolicy: Never
      {{- include "pod" $root | nindent 6 }}
      containers:
        - {{- include "container" $root | nindent 10 }}
          image: {{ include "image" $root }}
          resources:
            requests: {cpu: 100m, memory: 256Mi, ephemeral-storage: 64Mi}
            limits: {memory: 256Mi, ephemeral-storage: 512Mi}
{{- end }}
