// The OpenAPI document, shown by Swagger UI. Everything comes from this server, and nothing is told to another one.

globalThis.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // it would send the document there
  persistAuthorization: false,
});
