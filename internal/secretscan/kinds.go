package secretscan

import (
	"strings"
	"sync"
)

// kindOf returns what a rule of gitleaks finds, in the words of a report.
func kindOf(id string) string { return kinds()[id] }

var kinds = sync.OnceValue(func() map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(kindLines) {
		kind, ids, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		for id := range strings.FieldsSeq(ids) {
			out[id] = kind
		}
	}
	return out
})

// kindLines has the kinds, each with the rules that find it.
const kindLines = `a 1Password key: 1password-secret-key
a 1Password token: 1password-service-account-token
an Adafruit key: adafruit-api-key
an Adobe client id: adobe-client-id
an Adobe secret: adobe-client-secret
an age secret key: age-secret-key
an Airtable key: airtable-api-key
an Airtable token: airtable-personnal-access-token
an Algolia key: algolia-api-key
an Alibaba key: alibaba-access-key-id alibaba-secret-key
an Anthropic key: anthropic-admin-api-key anthropic-api-key
an Artifactory key: artifactory-api-key
an Artifactory token: artifactory-reference-token
an Asana client id: asana-client-id
an Asana secret: asana-client-secret
an Atlassian token: atlassian-api-token
an Authress key: authress-service-client-access-key
an AWS access key: aws-access-token
an AWS key: aws-amazon-bedrock-api-key-long-lived aws-amazon-bedrock-api-key-short-lived
an Azure secret: azure-ad-client-secret
a Beamer token: beamer-api-token
a Bitbucket client id: bitbucket-client-id
a Bitbucket secret: bitbucket-client-secret
a Bittrex key: bittrex-access-key bittrex-secret-key
a Cisco Meraki key: cisco-meraki-api-key
a ClickHouse key: clickhouse-cloud-api-secret-key
a Clojars token: clojars-api-token
a Cloudflare key: cloudflare-api-key cloudflare-global-api-key cloudflare-origin-ca-key
a Codecov token: codecov-access-token
a Cohere token: cohere-api-token
a Coinbase token: coinbase-access-token
a Confluent token: confluent-access-token
a Confluent key: confluent-secret-key
a Contentful token: contentful-delivery-api-token
an authorization header: curl-auth-header
a password on a command line: curl-auth-user
a Databricks token: databricks-api-token
a Datadog token: datadog-access-token
a Defined Networking token: defined-networking-api-token
a DigitalOcean token: digitalocean-access-token digitalocean-pat digitalocean-refresh-token
a Discord token: discord-api-token
a Discord client id: discord-client-id
a Discord secret: discord-client-secret
a Doppler token: doppler-api-token
a Drone CI token: droneci-access-token
a Dropbox token: dropbox-api-token dropbox-long-lived-api-token dropbox-short-lived-api-token
a Duffel token: duffel-api-token
a Dynatrace token: dynatrace-api-token
an EasyPost token: easypost-api-token easypost-test-api-token
an Etsy token: etsy-access-token
a Facebook token: facebook-access-token facebook-page-access-token
a Facebook secret: facebook-secret
a Fastly token: fastly-api-token
a Finicity token: finicity-api-token
a Finicity secret: finicity-client-secret
a Finnhub token: finnhub-access-token
a Flickr token: flickr-access-token
a Flutterwave key: flutterwave-encryption-key flutterwave-public-key flutterwave-secret-key
a Fly.io token: flyio-access-token
a Frame.io token: frameio-api-token
a Freemius key: freemius-secret-key
a FreshBooks token: freshbooks-access-token
a Google key: gcp-api-key
a value that looks like a key: generic-api-key
a GitHub token: github-app-token github-fine-grained-pat github-oauth github-pat github-refresh-token
a GitLab token: gitlab-cicd-job-token gitlab-deploy-token gitlab-feature-flag-client-token gitlab-feed-token gitlab-incoming-mail-token gitlab-kubernetes-agent-token gitlab-pat gitlab-pat-routable gitlab-ptt gitlab-rrt gitlab-runner-authentication-token gitlab-runner-authentication-token-routable gitlab-scim-token
a GitLab secret: gitlab-oauth-app-secret
a GitLab cookie: gitlab-session-cookie
a Gitter token: gitter-access-token
a GoCardless token: gocardless-api-token
a Grafana key: grafana-api-key
a Grafana token: grafana-cloud-api-token grafana-service-account-token
a Harness key: harness-api-key
a Terraform token: hashicorp-tf-api-token
a password in Terraform: hashicorp-tf-password
a Heroku key: heroku-api-key heroku-api-key-v2
a HubSpot key: hubspot-api-key
a Hugging Face token: huggingface-access-token huggingface-organization-api-token
an Infracost token: infracost-api-token
an Intercom key: intercom-api-key
an Intra 42 secret: intra42-client-secret
a JFrog key: jfrog-api-key
a JFrog token: jfrog-identity-token
a JSON web token: jwt jwt-base64
a Kraken token: kraken-access-token
a Kubernetes secret: kubernetes-secret-yaml
a KuCoin token: kucoin-access-token
a KuCoin key: kucoin-secret-key
a LaunchDarkly token: launchdarkly-access-token
a Linear key: linear-api-key
a Linear secret: linear-client-secret
a LinkedIn client id: linkedin-client-id
a LinkedIn secret: linkedin-client-secret
a Lob key: lob-api-key lob-pub-api-key
a Looker client id: looker-client-id
a Looker secret: looker-client-secret
a Mailchimp key: mailchimp-api-key
a Mailgun token: mailgun-private-api-token
a Mailgun key: mailgun-pub-key mailgun-signing-key
a Mapbox token: mapbox-api-token
a Mattermost token: mattermost-access-token
a MaxMind key: maxmind-license-key
a MessageBird token: messagebird-api-token
a MessageBird client id: messagebird-client-id
a Microsoft Teams webhook: microsoft-teams-webhook
a Netlify token: netlify-access-token
a New Relic token: new-relic-browser-api-token new-relic-user-api-id
a New Relic key: new-relic-insert-key new-relic-user-api-key
a Notion token: notion-api-token
an npm token: npm-access-token
a NuGet password: nuget-config-password
a New York Times token: nytimes-access-token
an Octopus Deploy key: octopus-deploy-api-key
an Okta token: okta-access-token
an OpenAI key: openai-api-key
an OpenShift token: openshift-user-token
a Perplexity key: perplexity-api-key
a certificate with its private key: pkcs12-file
a Plaid token: plaid-api-token
a Plaid client id: plaid-client-id
a Plaid key: plaid-secret-key
a PlanetScale token: planetscale-api-token planetscale-oauth-token
a PlanetScale password: planetscale-password
a Postman token: postman-api-token
a Prefect token: prefect-api-token
a private key: private-key
a Private AI token: privateai-api-token
a Pulumi token: pulumi-api-token
a PyPI token: pypi-upload-token
a RapidAPI token: rapidapi-access-token
a ReadMe token: readme-api-token
a RubyGems token: rubygems-api-token
a Scalingo token: scalingo-api-token
a Sendbird key: sendbird-access-id
a Sendbird token: sendbird-access-token
a SendGrid token: sendgrid-api-token
a Sendinblue token: sendinblue-api-token
a Sentry token: sentry-access-token sentry-org-token sentry-user-token
a SettleMint token: settlemint-application-access-token settlemint-personal-access-token settlemint-service-access-token
a Shippo token: shippo-api-token
a Shopify token: shopify-access-token shopify-custom-access-token shopify-private-app-access-token
a Shopify secret: shopify-shared-secret
a Sidekiq secret: sidekiq-secret
a password in an address: sidekiq-sensitive-url
a Slack token: slack-app-token slack-bot-token slack-config-access-token slack-config-refresh-token slack-legacy-bot-token slack-legacy-token slack-legacy-workspace-token slack-user-token
a Slack webhook: slack-webhook-url
a Snyk token: snyk-api-token
a Sonar token: sonar-api-token
a Sourcegraph token: sourcegraph-access-token
a Square token: square-access-token
a Squarespace token: squarespace-access-token
a Stripe token: stripe-access-token
a Sumo Logic key: sumologic-access-id
a Sumo Logic token: sumologic-access-token
a Telegram bot token: telegram-bot-api-token
a Travis CI token: travisci-access-token
a Twilio key: twilio-api-key
a Twitch token: twitch-api-token
a Twitter secret: twitter-access-secret twitter-api-secret
a Twitter token: twitter-access-token twitter-bearer-token
a Twitter key: twitter-api-key
a Typeform token: typeform-api-token
a Vault token: vault-batch-token vault-service-token
a Yandex token: yandex-access-token yandex-aws-access-token
a Yandex key: yandex-api-key
a Zendesk key: zendesk-secret-key`
